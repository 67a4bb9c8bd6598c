"""A bounded cache on disk of pieces of objects, shared by any number of processes.

A block is a file named by what it holds (address, ETag, size and number of the block), so a replaced object never mixes
with its older self. Blocks appear by rename, whole; a reader holds the open file, so that no eviction takes it away.
What is used least recently (by the file's time) goes first. A cache that is damaged costs a request and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

CRC_BYTES = 4
KEPT = 7 / 8  # of the limit, after an eviction: each scan of the folder makes room for many blocks
SEEN = 1 << 17  # checksums remembered: some 20 MB; a pass over 15 TB would else cost gigabytes
FRESH_S = 60.0  # a block's time is renewed at most so often: a write for each read would cost more than the read
PARTIAL = ".partial"


class BlockCache:
    """Blocks below `root`, of `limit_bytes` in all. Makes the folder; holds no open file, so it may be forked.

    Raises:
        OSError: the folder cannot be written. A full disk is no error: the cache then gives up half of its blocks.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self._sound: set[tuple[str, int]] = set()  # blocks whose checksum this process has seen to be right
        self._numbers = itertools.count()
        root.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, start: int, end: int, size: int) -> bytes | None:
        """Bytes `start` to `end` of a block of `size` bytes; None where it is not at hand, or not whole."""
        try:
            fd = os.open(self._file(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            facts = os.fstat(fd)
            if facts.st_size != size + CRC_BYTES or not self._is_sound(fd, name, facts.st_ino, size):
                self._file(name).unlink(missing_ok=True)
                return None
            if time.time() - facts.st_mtime > FRESH_S:
                with contextlib.suppress(PermissionError):  # a block that another user wrote: it ages, that is all
                    os.utime(fd)
            return os.pread(fd, end - start, start)
        finally:
            os.close(fd)

    def put(self, name: str, data: bytes) -> None:
        """Keep a block, making room first."""
        try:
            self._write(name, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with self._counted() as total:
                total[0] = self._evict(total[0] // 2)

    def _write(self, name: str, data: bytes) -> None:
        room = len(data) + CRC_BYTES
        with self._counted() as total:
            if total[0] + room > self.limit_bytes:
                total[0] = self._evict(int(self.limit_bytes * KEPT) - room)
            total[0] += room  # counted before it is written: the limit holds at every instant
        file = self._file(name)
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f"{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}{PARTIAL}")
        try:
            with partial.open("xb") as out:
                out.write(data)
                out.write(zlib.crc32(data).to_bytes(CRC_BYTES, "big"))
            partial.replace(file)
        except FileNotFoundError:
            pass  # evicted while it was written: the cache is far too small, but nothing is lost
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _file(self, name: str) -> Path:
        return self.root / name[:2] / name

    def _is_sound(self, fd: int, name: str, inode: int, size: int) -> bool:
        """Compare the checksum, once a process and file: 0.4 ms a MiB, where reading a frame takes 0.02 ms."""
        if (name, inode) in self._sound:
            return True
        data = os.pread(fd, size + CRC_BYTES, 0)
        sound = zlib.crc32(data[:size]).to_bytes(CRC_BYTES, "big") == data[size:]
        if sound:
            if len(self._sound) >= SEEN:
                self._sound.clear()
            self._sound.add((name, inode))
        return sound

    @contextlib.contextmanager
    def _counted(self) -> Iterator[list[int]]:
        """The number of bytes in the cache, to be read and changed by one process at a time.

        The count may be too high after a kill, never too low; the next eviction counts anew.
        """
        fd = os.open(self.root / "bytes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = os.pread(fd, 20, 0)
            total = [int(text) if len(text) == 20 and text.isdigit() else self._evict(self.limit_bytes)]
            yield total
            os.pwrite(fd, f"{total[0]:020d}".encode(), 0)
        finally:
            os.close(fd)  # and with it the lock

    def _evict(self, target: int) -> int:
        """Remove the blocks that were not used for longest until `target` bytes are left; returns the bytes left."""
        found = sorted(self._scan())
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= target:
                break
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            total -= size
        return total

    def _scan(self) -> Iterator[tuple[float, int, str]]:
        for folder in os.scandir(self.root):
            if folder.is_dir():
                for entry in os.scandir(folder.path):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat()
                        yield facts.st_mtime, facts.st_size, entry.path
