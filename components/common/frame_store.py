"""The frame store: frames of many videos as JPEGs in a few large tar files, and two tables that say where each lies.

Millions of small files are what DVC, object stores and artifact copies handle worst. Here a frame is one positional
read, and any tool that knows tar or WebDataset opens the shards (`<video key>/<frame number>.jpg`).

    frames.parquet   one row a frame, ordered by (video, pts_s)
    videos.parquet   one row a source, the bad ones too, with the reason
    shard-000000.tar ...
    store.json       totals, sha256 of every file
"""

from __future__ import annotations

import functools
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common import hashing
from components.common.errors import StageError

if TYPE_CHECKING:
    import pyarrow as pa

    from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow

__all__ = ["Frame", "FrameStore", "FrameStoreWriter", "VideoRow", "shard_name"]

FORMAT = 1
MANIFEST, FRAMES, VIDEOS = "store.json", "frames.parquet", "videos.parquet"
OPEN_SHARDS = 256  # file descriptors one reader keeps; a common limit for a process is 1024
OK, BAD = "ok", "bad"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06d}.tar"


class FrameStore:
    """Reader of a frame store; cheap to make, safe to share with forked, spawned and threaded workers.

    Raises:
        StageError: `path` is not a frame store, or one of another format version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self._shards: dict[int, _Shard] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def frames(self) -> pa.Table:
        """One row a frame: video, frame, pts_s, shard, offset, size, height, width, cut."""
        return self._table(FRAMES)

    @functools.cached_property
    def videos(self) -> pa.Table:
        """One row a source, bad ones too: video, key, path, sha256, fps, duration_s, n_frames, width, height, rotation,
        status ("ok" or "bad"), reason."""
        return self._table(VIDEOS)

    @property
    def n_frames(self) -> int:
        """Frames in the store."""
        return int(self.manifest["frames"])

    @property
    def fingerprint(self) -> str:
        """sha256 over the manifest, and with it over every byte of the store."""
        return hashing.file_hash(self.path / MANIFEST)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """The JPEG at `offset` of a shard: one positional read, so that forked workers may share the descriptor.

        Raises:
            StageError: the shard is missing or shorter than the table says.
        """
        data = os.pread(self._open(int(shard)).fd, int(size), int(offset))
        if len(data) != size:
            where = self.path / shard_name(int(shard))
            raise StageError(f"shard ends before byte {offset + size}", where=where, do="extract the frames again")
        return data

    def verify(self) -> None:
        """Compare every file with the sha256 in the manifest; raises StageError naming the first that differs."""
        for name, facts in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file() or hashing.file_hash(file) != facts["sha256"]:
                raise StageError("missing or changed since it was written", where=file, do="extract the frames again")

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        self._shards.clear()

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Path]]:
        return FrameStore, (self.path,)  # a spawned worker opens its own

    def _open(self, number: int) -> _Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = _Shard(self.path / shard_name(number))
            with self._lock:
                if len(self._shards) >= OPEN_SHARDS:
                    del self._shards[next(iter(self._shards))]
                self._shards[number] = shard
        return shard

    def _table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            why = str(error).splitlines()[0]
            raise StageError(
                f"unreadable table, {why}", where=self.path / name, do="extract the frames again"
            ) from None


class _Shard:
    """An open file that closes with its last reference, so no thread loses it in the middle of a read."""

    __slots__ = ("fd",)

    def __init__(self, file: Path) -> None:
        self.fd = -1
        try:
            self.fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StageError("missing shard", where=file, do="extract the frames again") from None

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise StageError("no frame store here", where=path, do="run extract_frames") from None
    except (ValueError, TypeError, KeyError):
        raise StageError("unreadable manifest", where=path / MANIFEST, do="extract the frames again") from None
    if found != FORMAT:
        raise StageError(f"frame store of format {found}, this code reads {FORMAT}", where=path, do="extract again")
    return dict(manifest)


def __getattr__(name: str) -> Any:
    """The writer is found here too, but loaded only when asked for: loader workers read shards and need no pyarrow."""
    if name in ("Frame", "FrameStoreWriter", "VideoRow"):
        from components.common import frame_store_writer

        return getattr(frame_store_writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
