"""Claims: a folder or a set of outputs is worked on by one process at a time, whatever machine it runs on.

A claim is a lock that the kernel keeps (flock), so it ends with its process however that ends. It lies in
`<cache>/locks`, apart from what it guards: a lock inside a folder that is removed would guard nothing.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import IO

from components.common import hashing


class Claim:
    """The sole right to work on some paths, from `take` to `release`; made free by the kernel when the process ends.

    Args:
        paths: what is claimed; their order does not matter.
        locks: folder of the lock files, common to all who may want the same paths.
    """

    def __init__(self, paths: list[Path], locks: Path) -> None:
        self.file = locks / f"{hashing.json_hash(sorted(str(path.absolute()) for path in paths))}.lock"
        self._lock: IO[str] | None = None

    def take(self, *, shared: bool = False) -> bool:
        """Whether the paths are now this process's; False while another one has them.

        Args:
            shared: for reading: others may read as well, and none may take the paths for itself meanwhile.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = self.file.open("w")
        with suppress(BlockingIOError):
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            self._lock = lock
            return True
        lock.close()
        return False

    def share(self) -> None:
        """From now on only read what was taken. Another may have it for a moment in between, then this one waits."""
        assert self._lock is not None
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let others have them; the lock file stays, since removing it would let two processes in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
