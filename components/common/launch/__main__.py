"""Run a stage in several processes: python -m components.common.launch --gpus 8 -- python -m components.pretrain ..."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from components.common.config import parse
from components.common.errors import ExitCode, StageError
from components.common.launch.settings import MODULE, NodeSettings


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, help="machines; more than one run as a Kubeflow TrainJob")
    parser.add_argument("--gpus", type=int, default=0, help="of each node, a process for each")
    parser.add_argument("--processes", type=int, default=1, help="of each node, where it has no GPU")
    parser.add_argument("--settings", metavar="JSON", help="what each node of a TrainJob gets")
    parser.add_argument("--as-node", action="store_true", help="be one node of a TrainJob (PET_* says which)")
    parser.add_argument("--watched", type=Path, metavar="FILE", help="end when nobody has touched it for long")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- python -m components.STAGE ...")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return launch(args)
    except StageError as error:
        print(f"launch: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print("launch: interrupted; run it again, it goes on from the last checkpoint", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


def launch(args: argparse.Namespace) -> int:
    """Run the command as asked; its exit code, where it has said itself what was wrong, else a StageError."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    processes = args.gpus or args.processes
    if min(args.nodes, processes) < 1 or args.gpus < 0:
        raise StageError("--nodes, --gpus and --processes count from 1")
    if args.as_node:
        from components.common.launch import torchrun, watched

        with watched.by(args.watched):
            return torchrun.run_node(command)
    if args.nodes == 1:
        from components.common.launch import torchrun

        return torchrun.run_here(command, processes)
    from components.common.launch.trainjob import run

    return run(command, args.nodes, processes, args.gpus, _settings(args.settings))


def _settings(text: str | None) -> NodeSettings:
    if text is None:
        raise StageError("several nodes need --settings")
    try:
        told = json.loads(text)
    except json.JSONDecodeError as error:
        raise StageError(f"not JSON, {error}", where="--settings") from None
    return parse(NodeSettings, told if isinstance(told, dict) else {}, "--settings")


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
