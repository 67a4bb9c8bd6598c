"""The processes of one node: torchrun without its wall of text, and with the stage's own exit code."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from typing import Any

from components.common.errors import ExitCode, StageError

FIRST_S = 5  # what fails later than so long after the first is its consequence: torchrun kills after 30 s
# Torch tells of sockets and threads on standard error, where people look for the stage's own line.
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}


def run_here(command: list[str], processes: int) -> int:
    """Run a stage in `processes` processes of this machine.

    Args:
        command: `python -m MODULE ARGUMENT...`.
        processes: their number; rank 0 is the stage, the others take part in its work.

    Returns:
        The exit code of rank 0, which has said itself what was wrong.

    Raises:
        StageError: another process failed, with its exit code; the line says which, and why where that is known.
    """
    return _run(["--standalone", f"--nproc-per-node={processes}"], command)


def run_node(command: list[str]) -> int:
    """Run a stage's processes of one node of a TrainJob: their number and where they meet say PET_* variables.

    Returns and raises as `run_here`; StageError as well where the nodes do not find each other.
    """
    missing = [name for name in ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR") if name not in os.environ]
    if missing:
        raise StageError(f"no {missing[0]} in the environment", do="--as-node is for the pods of a TrainJob")
    return _run([], command)


def module_of(command: list[str]) -> list[str]:
    """MODULE and its arguments, of `python -m MODULE ...`."""
    if len(command) < 3 or not os.path.basename(command[0]).startswith("python") or command[1] != "-m":  # noqa: PTH119
        raise StageError("expected `python -m MODULE ...` behind --", where=" ".join(command[:3]))
    return command[2:]


def _run(options: list[str], command: list[str]) -> int:
    module = module_of(command)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # this process has nothing to say but its last line
    try:
        torchrun.run(torchrun.parse_args([*options, "-m", *module]))
    except ChildFailedError as error:
        return judged(error.failures)
    except SignalException:
        raise StageError("interrupted", do="run it again, it goes on", code=ExitCode.INTERRUPTED) from None
    except DistError as error:
        where = f"{os.environ.get('PET_MASTER_ADDR', 'localhost')}:{os.environ.get('PET_MASTER_PORT', '29500')}"
        what = f"the nodes did not meet, {' '.join(str(error).split())[:120]}"
        raise StageError(what, where=where, do="run it again, it goes on", code=ExitCode.LOST) from None
    return int(ExitCode.OK)


def judged(failures: Mapping[int, Any]) -> int:
    """The exit code to end with, where rank 0 has said why; else the failure that caused the others, as a StageError.

    Args:
        failures: torchrun's, by local rank; those that it ended itself are among them.
    """
    first = min(failure.timestamp for failure in failures.values())
    early = {rank: failure for rank, failure in failures.items() if failure.timestamp <= first + FIRST_S}
    rank = min(early, key=lambda rank: (_order(early[rank].exitcode), rank))
    code, message = early[rank].exitcode, early[rank].message
    if code < 0:
        name = signal.Signals(-code).name
        hint = "most often out of memory; " if -code == signal.SIGKILL else ""
        do = f"{hint}run it again, it goes on from the last checkpoint"
        raise StageError(f"process {rank} was ended by {name}", do=do, code=ExitCode.LOST)
    if os.environ.get("PET_NODE_RANK", "0") == "0" and rank == 0:
        return code
    message = early[rank].error_file_data.get("message", f"exit code {code}, see its lines above")
    known = code in [int(known) for known in ExitCode]
    raise StageError(f"process {rank}: {message}", code=ExitCode(code) if known else ExitCode.CRASH)


def _order(code: int) -> int:
    """Causes before consequences: a process that was killed, then one that refused, then those that lost it."""
    if code == -signal.SIGTERM or code == ExitCode.INTERRUPTED:  # torchrun ends the others so
        return 4
    if code < 0:
        return 0
    refused = (ExitCode.BAD_INPUT, ExitCode.STOPPED, ExitCode.NO_ROOM, ExitCode.BUSY, ExitCode.UNREACHABLE)
    return 1 if code in refused else 3 if code == ExitCode.LOST else 2
