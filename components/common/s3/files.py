"""The files of an artifact in a store, read by range through the block cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from components.common.context import cache_root
from components.common.hashing import json_hash
from components.common.s3.artifact import Artifact
from components.common.s3.blocks import BlockCache
from components.common.s3.store import Object, Store


class S3Files:
    """Reader of the files below an address, as they were when it was made: an object that is replaced later is an
    error, never a mixture. May be pickled and forked; copies read the same objects.

    Args:
        address: of the artifact's folder.
        store: how to reach it; default: as the environment says.
        cache: folder of the blocks; default: `blocks` in the stage's cache, shared by all that read on this machine.
        objects: name -> object, as an earlier reader found them.

    Raises:
        StageError: the store cannot be reached, nothing is there, or an upload to it is under way.
    """

    def __init__(
        self,
        address: str,
        store: Store | None = None,
        cache: Path | None = None,
        objects: dict[str, Object] | None = None,
    ) -> None:
        self.address, self.store, self.cache = address, store or Store(), cache or cache_root() / "blocks"
        self.objects = Artifact.find(self.store, address).objects if objects is None else objects

    def __reduce__(self) -> tuple[type[S3Files], tuple[str, Store, Path, dict[str, Object]]]:
        return S3Files, (self.address, self.store, self.cache, self.objects)

    @cached_property
    def blocks(self) -> BlockCache:
        return BlockCache(self.cache, self.store.params.cache_bytes)

    def where(self, name: str) -> str:
        return f"{self.address}/{name}".rstrip("/")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file; raises FileNotFoundError.

        Missing blocks that lie side by side come with one request.
        """
        obj = self._object(name)
        end, block = min(offset + size, obj.size), self.store.params.block_bytes
        pieces: list[bytes] = []
        while offset < end:
            number = offset // block
            stop = min(end, (number + 1) * block)
            piece = self._cached(obj, number, offset, stop)
            if piece is None:
                stop = min(end, self._missing_until(obj, number, end))
                piece = self._fetched(obj, number, offset, stop)
            pieces.append(piece)
            offset = stop
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def prefetch(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Fetch what reads of these (name, offset, size) would miss, side by side: alone each waits for the network."""
        block = self.store.params.block_bytes
        numbers = {
            (name, number)
            for name, offset, size in wanted
            for number in range(offset // block, (offset + max(size, 1) - 1) // block + 1)
        }
        missing = [pair for pair in sorted(numbers) if self._is_missing(*pair)]
        if len(missing) > 1:
            self.store.side_by_side(partial(self._fetch_block, name, number) for name, number in missing)

    def whole(self, name: str) -> bytes:
        """A file's bytes; raises FileNotFoundError."""
        return self.read(name, 0, self._object(name).size)

    def table(self, name: str) -> Any:
        """A file as pyarrow reads it. All of it, as a table is read: corpora too large for that have an index."""
        import pyarrow as pa

        return pa.BufferReader(self.whole(name))

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hex, read part by part; raises FileNotFoundError."""
        digest, obj = hashlib.sha256(), self._object(name)
        for start in range(0, obj.size, self.store.params.part_bytes):
            digest.update(self.store.read(obj, start, min(start + self.store.params.part_bytes, obj.size)))
        return digest.hexdigest()

    def close(self) -> None:
        """Nothing stays open."""

    def _object(self, name: str) -> Object:
        if name not in self.objects:
            raise FileNotFoundError(self.where(name))
        return self.objects[name]

    def _extent(self, obj: Object, number: int) -> tuple[int, int]:
        block = self.store.params.block_bytes
        return number * block, min((number + 1) * block, obj.size)

    def _name(self, obj: Object, number: int) -> str:
        return json_hash([obj.address, obj.etag, self.store.params.block_bytes, number])

    def _cached(self, obj: Object, number: int, start: int, end: int) -> bytes | None:
        first, last = self._extent(obj, number)
        return self.blocks.read(self._name(obj, number), start - first, end - first, last - first)

    def _is_missing(self, name: str, number: int) -> bool:
        obj = self.objects.get(name)
        if obj is None or number * self.store.params.block_bytes >= obj.size:
            return False  # reading it will say what is wrong
        first, _ = self._extent(obj, number)
        return self._cached(obj, number, first, first) is None

    def _fetch_block(self, name: str, number: int) -> None:
        obj = self.objects[name]
        self._fetched(obj, number, *self._extent(obj, number))

    def _missing_until(self, obj: Object, number: int, end: int) -> int:
        """End of the run of missing blocks that begins with `number`: within the wanted bytes and one part."""
        first, stop = self._extent(obj, number)
        while (
            stop < end
            and stop - first < self.store.params.part_bytes
            and self._cached(obj, number + 1, stop, stop) is None
        ):
            number += 1
            stop = self._extent(obj, number)[1]
        return stop

    def _fetched(self, obj: Object, number: int, start: int, end: int) -> bytes:
        """Bytes `start` to `end`, of which block `number` is the first; whole blocks are fetched and kept."""
        block = self.store.params.block_bytes
        first = number * block
        data = self.store.read(obj, first, min(-(-end // block) * block, obj.size))
        for at in range(0, len(data), block):
            self.blocks.put(self._name(obj, number + at // block), data[at : at + block])
        return data[start - first : end - first]
