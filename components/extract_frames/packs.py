"""What is finished, kept through kills: pictures in a few files that grow, and a manifest that says what they hold.

Two files a video would be half a million for a corpus of 240,000, and minutes to look at after a kill. Each worker
appends to a file of its own (a pack); once the data is on disk, one line goes to the manifest. A line that is there
stands for data that is whole; what a kill has cut off has no line, and stays unused.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.jsonl"
DECODER = json.JSONDecoder()


class Manifest:
    """Names and values in a file that only grows; values stay in the file, names and their places in memory."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._stream = file.open("a+b")
        self._end = self._read()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Any:
        """The value that was added last under this name; raises KeyError."""
        at, size = self._places[name]
        return json.loads(os.pread(self._stream.fileno(), size, at))[1]

    def add(self, name: str, value: Any) -> None:
        """Append one line; it takes the place of an earlier one of the same name."""
        line = json.dumps([name, value], separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
            self._places[name] = self._end, len(line)
            self._end += len(line)

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> int:
        """Places of all whole lines; what a kill left of a last one is cut off. Returns where the file ends."""
        at = 0
        self._stream.seek(0)
        for line in self._stream:
            if not (line.startswith(b'["') and line.endswith(b"]\n")):
                break
            name, _ = DECODER.raw_decode(line.decode(), 1)  # values are parsed when they are asked for
            self._places[name] = at, len(line)
            at += len(line)
        self._stream.truncate(at)
        self._stream.seek(at)
        return at


class Pack:
    """A file that one thread at a time appends to.

    Attributes:
        number: by which the manifest names it.
        end: where the next byte goes.
    """

    def __init__(self, file: Path, number: int) -> None:
        self.number, self.end, self._file = number, 0, str(file)
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> int:
        """Append some bytes, all of them; returns how many."""
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self._fd, rest)
                self.end, rest = self.end + written, rest[written:]
        except OSError as error:
            error.filename = self._file  # which disk is full
            raise
        return len(data)

    def keep(self) -> None:
        """Wait until everything is on disk."""
        os.fdatasync(self._fd)

    def cut(self, end: int) -> None:
        """Give the disk back what lies after `end`: it was written in vain."""
        os.ftruncate(self._fd, end)
        self.end = os.lseek(self._fd, end, os.SEEK_SET)

    def close(self) -> None:
        os.close(self._fd)


class Packs:
    """All packs of a folder: those that were left by killed processes are read only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next = 1 + max((int(file.stem) for file in folder.glob("*.pack")), default=-1)
        self._idle: list[Pack] = []
        self._read: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Pack]:
        """A pack that is nobody else's until the block ends; its data is on disk then, or cut off after an error."""
        with self._lock:
            pack = self._idle.pop() if self._idle else self._new()
        start = pack.end
        try:
            yield pack
            pack.keep()
        except BaseException:
            pack.cut(start)
            raise
        finally:
            self._idle.append(pack)

    def read(self, number: int, at: int, size: int) -> bytes:
        """Bytes of a pack."""
        if number not in self._read:
            with self._lock:
                if number not in self._read:
                    self._read[number] = os.open(self.folder / f"{number}.pack", os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._read[number], size, at)

    def close(self) -> None:
        """Close all files."""
        for pack in self._idle:
            pack.close()
        for fd in self._read.values():
            os.close(fd)
        self._idle, self._read = [], {}

    def _new(self) -> Pack:
        pack = Pack(self.folder / f"{self._next}.pack", self._next)
        self._next += 1
        return pack
