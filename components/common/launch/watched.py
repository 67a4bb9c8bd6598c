"""A TrainJob does not outlive who watches it: the launching pod touches a file that all nodes see.

Kubeflow ends a cancelled task with its container, often before the task can delete its job. Nodes that nobody watches
any more end themselves, so that no GPU works for a run that was given up.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common.errors import ExitCode, StageError

ALONE_S = 1800  # the API may be away for ten minutes, and a launching pod that was lost is back some minutes later
LOOK_EVERY_S = 15.0


def touch(file: Path) -> None:
    """Say that somebody watches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@contextmanager
def by(file: Path | None, alone_s: float = ALONE_S, look_every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """End this process by SIGTERM, in the middle of the block, once nobody has touched `file` for `alone_s`.

    Raises:
        StageError: nobody has touched it for so long already.
    """
    if file is None:
        yield
        return
    if _alone_for_s(file) > alone_s:
        raise StageError("nobody watches this job any more", where=file, code=ExitCode.INTERRUPTED)
    done = threading.Event()

    def look() -> None:
        while not done.wait(look_every_s):
            if _alone_for_s(file) > alone_s:
                print("launch: nobody watches this job any more, it ends", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _alone_for_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
