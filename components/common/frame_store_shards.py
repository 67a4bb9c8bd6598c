"""Writes the shards of a frame store: uncompressed tar files of a bounded size, hashed on the way."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from components.common.frame_store import shard_name

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)
Facts = dict[str, object]


class Member:
    """A file to be put into a shard: header, data, padding."""

    def __init__(self, name: str, data: bytes) -> None:
        header = _tar_header(name, len(data))
        self.pieces = header, data, bytes(-len(data) % BLOCK)
        self.before, self.size = len(header), sum(map(len, self.pieces))


class ShardWriter:
    """Appends members to tar files of a bounded size.

    Args:
        path: folder.
        limit: bytes of a shard; one sample above it still gets a shard of its own.
        done: facts of shards that an earlier process has finished.
        closed: called with the name of each shard that is whole.
    """

    def __init__(
        self, path: Path, limit: int, done: Mapping[str, Facts], closed: Callable[[str], None] | None = None
    ) -> None:
        self.done: dict[str, Facts] = dict(done)
        self._path, self._limit, self._closed = path, limit, closed
        self._file: BinaryIO | None = None
        self._hash, self._at = hashlib.sha256(), 0

    def append(self, *members: Member) -> list[tuple[int, int]]:
        """Put the members of one sample into one shard; returns (shard, offset of the data in it) of each.

        WebDataset takes files of one name for one sample, but only where it meets them one behind the other.
        """
        if self._at > 0 and self._at + sum(member.size for member in members) + len(END_OF_TAR) > self._limit:
            self.close()
        if self._file is None:
            self._file = (self._path / shard_name(len(self.done))).open("wb", buffering=1 << 20)
        places = []
        for member in members:
            places.append((len(self.done), self._at + member.before))
            for piece in member.pieces:
                self._write(piece)
        return places

    def close(self) -> None:
        """End the shard, if one was begun."""
        if self._file is None:
            return
        self._write(END_OF_TAR)
        self._file.close()
        name = shard_name(len(self.done))
        self.done[name] = {"bytes": self._at, "sha256": self._hash.hexdigest()}
        self._file, self._hash, self._at = None, hashlib.sha256(), 0
        if self._closed is not None:
            self._closed(name)

    def abandon(self) -> None:
        """Close without finishing."""
        if self._file is not None:
            self._file.close()

    def _write(self, piece: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(piece)
        except OSError as error:
            error.filename = self._file.name  # which disk is full
            raise
        self._hash.update(piece)
        self._at += len(piece)


def _tar_header(name: str, size: int) -> bytes:
    """Header of a member without owner or time; a name too long or not ASCII adds a pax record in front."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
