"""`python -m components.evaluate.tasks.<task> score ...`: a task's metric alone, on files."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import ExitCode, StageError
from components.common.outputs import write_text

MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def score_main(
    task: str,
    help_line: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    score: Callable[[argparse.Namespace], dict[str, Any]],
    argv: list[str] | None = None,
) -> int:
    """Parse `score ...`, write the result to `--json` and its figures to the terminal; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m components.evaluate.tasks.{task}")
    command = parser.add_subparsers(dest="command", required=True).add_parser("score", help=help_line)
    add_arguments(command)
    command.add_argument("--json", type=Path, required=True, metavar="OUT", help="where to write the scores")
    args = parser.parse_args(argv)
    try:
        result = score(args)
        write_text(args.json, json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n")
    except StageError as error:
        print(f"{task} score: {error}", file=sys.stderr)
        return int(error.code)
    except OSError as error:  # every path here is the user's: a folder for a file, no permission, a full disk
        print(f"{task} score: {(error.strerror or str(error)).lower()}: {error.filename}", file=sys.stderr)
        return int(ExitCode.NO_ROOM if error.errno in MACHINE else ExitCode.BAD_INPUT)
    except MemoryError as error:
        print(f"{task} score: not enough memory: {' '.join(str(error).split())}", file=sys.stderr)
        return int(ExitCode.NO_ROOM)
    for name, value in result["metrics"].items():
        print(f"{name:16s} {value:.4f}")
    return int(ExitCode.OK)
