"""Errors meant for people: what was wrong, where, what to do."""

from __future__ import annotations

import enum
import os


class ExitCode(enum.IntEnum):
    """What a stage's exit code says to a shell, to DVC and to Kubernetes."""

    OK = 0
    CRASH = 1  # a defect of ours: the traceback is shown
    BAD_INPUT = 2  # the user's data or parameters; nothing was written
    STOPPED = 3  # training stopped itself: NaN or collapse
    NO_ROOM = 4  # the machine: disk full, no permission, no memory
    BUSY = 5  # another process holds what this one needs: try again later
    LOST = 6  # a process of this run was lost, or the cluster took it down: run it again, it goes on
    UNREACHABLE = 7  # a store or server that does not answer; what was done is kept, later it may go well
    INTERRUPTED = 130


class StageError(Exception):
    """One clear line instead of a traceback.

    Args:
        what: what is wrong, as a sentence without a full stop.
        where: the file, key or address it was found in.
        do: what the reader can do about it.
        code: exit code of the stage.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | os.PathLike[str] | None = None,
        do: str | None = None,
        code: ExitCode = ExitCode.BAD_INPUT,
    ) -> None:
        self.what, self.where, self.do, self.code = what, where, do, code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.what}: {os.fspath(self.where)}"
        return text if self.do is None else f"{text} ({self.do})"
