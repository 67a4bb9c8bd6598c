"""The journal: one folder a run, one JSON object a line, only ever appended to.

<uid>/journal.jsonl   what happened
<uid>/files/          copies of the artifacts, so that they outlive the stage's temporary folders
<uid>/state.json      how far it was sent, and to which MLflow run
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from components.common.outputs import write_text

Event = dict[str, Any]
TAIL_BYTES = 1 << 16  # more than any one event


def now_ms() -> int:
    """Milliseconds since the epoch, MLflow's unit of time."""
    return int(time.time() * 1000)


@dataclass
class State:
    """How far a journal was sent: `offset` bytes of it, to the run `run_id`; `done` once its end was sent."""

    offset: int = 0
    run_id: str = ""
    done: bool = False


class Journal:
    """A run's journal. Writers append whole lines in one system call; a line torn by a kill is skipped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "journal.jsonl"
        self._fd: int | None = None
        self._owner: IO[str] | None = None

    def append(self, kind: str, **content: Any) -> None:
        """Add one event with the present time."""
        if self._fd is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.file, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
            if self._torn():
                os.write(self._fd, b"\n")
        line = json.dumps({"kind": kind, "time_ms": now_ms(), **content}, allow_nan=True)
        os.write(self._fd, line.encode() + b"\n")

    def _torn(self) -> bool:
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def sync(self) -> None:
        """Make everything appended so far survive a power cut."""
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def read(self, offset: int) -> tuple[list[Event], int]:
        """Whole events from byte `offset` on, and the offset behind them."""
        if not self.file.exists():
            return [], offset
        with self.file.open("rb") as file:
            file.seek(offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        return list(_events(data[:end])), offset + end

    def first(self) -> Event | None:
        """The event that opened the run."""
        if not self.file.exists():
            return None
        with self.file.open("rb") as file:
            return next((event for event in _events(file.readline())), None)

    def last(self) -> Event | None:
        """The newest whole event."""
        if not self.file.exists():
            return None
        with self.file.open("rb") as file:
            file.seek(max(0, self.file.stat().st_size - TAIL_BYTES))
            data = file.read()
        return next(_events(b"\n".join(reversed(data[: data.rfind(b"\n") + 1].splitlines()))), None)

    def own(self) -> None:
        """Say that this process writes from now on, until `close` or its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._owner = (self.folder / "owner.lock").open("w")
        fcntl.flock(self._owner, fcntl.LOCK_SH)

    @property
    def owned(self) -> bool:
        """Whether the writing process lives, on whatever machine: pods share the folder, but not their process ids."""
        try:
            with (self.folder / "owner.lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def state(self) -> State:
        try:
            return State(**json.loads((self.folder / "state.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return State()  # sending again is harmless: MLflow keeps equal metrics once

    def save(self, state: State) -> None:
        write_text(self.folder / "state.json", json.dumps(asdict(state)))

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Hold the right to send this journal: one process at a time."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def follower_lock(folder: Path) -> Iterator[bool]:
    """Yield whether this process may follow the journals of `folder`; False while another one does."""
    with (folder / "follower.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_followed(folder: Path) -> bool:
    """Whether a follower sends the journals of `folder`. Askers share the lock: several stages may start at once."""
    with (folder / "follower.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _events(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn by a kill
        if isinstance(event, dict):
            yield event


def pending(folder: Path) -> list[Journal]:
    """Journals below `folder` that were not sent to their end, oldest first."""
    found = [Journal(file.parent) for file in folder.glob("*/journal.jsonl")]
    found.sort(key=lambda journal: journal.file.stat().st_ctime)
    return [journal for journal in found if _unsent(journal)]


def _unsent(journal: Journal) -> bool:
    state = journal.state
    return not state.done or journal.file.stat().st_size > state.offset  # a resumed run goes on behind its end
