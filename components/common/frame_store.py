"""The frame store: frames of many videos as JPEGs in a few large tar files, and two tables that say where each lies.

Millions of small files are what DVC, object stores and artifact copies handle worst. Here a frame is one positional
read, and any tool that knows tar or WebDataset opens the shards (`<video key>/<frame number>.jpg`).

    frames.parquet   one row a frame, ordered by (video, pts_s)
    videos.parquet   one row a source, the bad ones too, with the reason
    objects.parquet  one row an object in a frame, ordered like the frames; only where the corpus tells of objects
    shard-000000.tar ...
    store.json       totals, sha256 of every file
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.common import hashing
from components.common.errors import StageError
from components.common.s3.address import address_of

if TYPE_CHECKING:
    import pyarrow as pa

    from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow

__all__ = ["Frame", "FrameStore", "FrameStoreWriter", "VideoRow", "shard_name"]

FORMAT = 1
MANIFEST, FRAMES, VIDEOS, OBJECTS = "store.json", "frames.parquet", "videos.parquet", "objects.parquet"
OPEN_SHARDS = 256  # file descriptors one reader keeps; a common limit for a process is 1024
OK, BAD = "ok", "bad"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06d}.tar"


class FrameStore:
    """Reader of a frame store; cheap to make, safe to share with forked, spawned and threaded workers.

    Args:
        path: the store's folder, or its `s3://` address: then frames are read by range through a cache on disk.

    Raises:
        StageError: `path` is not a frame store, or one of another format version.
    """

    def __init__(self, path: str | os.PathLike[str] | Files) -> None:
        self.files = _files(path) if isinstance(path, str | os.PathLike) else path
        self.path = Path(path) if isinstance(path, str | os.PathLike) else Path(self.files.where(""))
        self.manifest = _read_manifest(self.files)

    @functools.cached_property
    def frames(self) -> pa.Table:
        """One row a frame: video, frame, pts_s, shard, offset, size, height, width, cut."""
        return self._table(FRAMES)

    @functools.cached_property
    def videos(self) -> pa.Table:
        """One row a source, bad ones too: video, key, path, sha256, fps, duration_s, n_frames, width, height, rotation,
        status ("ok" or "bad"), reason."""
        return self._table(VIDEOS)

    @functools.cached_property
    def objects(self) -> pa.Table | None:
        """One row an object in a frame: video, frame, track, category, box (x0, y0, x1, y1 in pixels of the frame) and
        the place of the frame's label map (shard, offset, size), by (video, frame, track); None in a store without."""
        return self._table(OBJECTS) if "objects" in self.manifest else None

    @property
    def is_remote(self) -> bool:
        """Whether reads are requests over a network."""
        return not isinstance(self.files, LocalFiles)

    @property
    def n_frames(self) -> int:
        """Frames in the store."""
        return int(self.manifest["frames"])

    @property
    def fingerprint(self) -> str:
        """sha256 over the manifest, and with it over every byte of the store."""
        return self.files.sha256(MANIFEST)

    def where(self, shard: int) -> str:
        """Path or address of a shard, for messages."""
        return self.files.where(shard_name(int(shard)))

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """The JPEG at `offset` of a shard: one positional read, so that forked workers may share the descriptor.

        Raises:
            StageError: the shard is missing or shorter than the table says.
        """
        try:
            data = self.files.read(shard_name(int(shard)), int(offset), int(size))
        except FileNotFoundError:
            raise StageError("missing shard", where=self.where(shard), do="extract the frames again") from None
        if len(data) != size:
            what = f"shard ends before byte {offset + size}"
            raise StageError(what, where=self.where(shard), do="extract the frames again")
        return data

    def prefetch(self, places: Iterable[tuple[int, int, int]]) -> None:
        """Tell which (shard, offset, size) will be read next: requests to a store then go side by side."""
        self.files.prefetch((shard_name(shard), offset, size) for shard, offset, size in places)

    def verify(self) -> None:
        """Compare every file with the sha256 in the manifest; raises StageError naming the first that differs."""
        for name, facts in self.manifest["files"].items():
            try:
                same = self.files.sha256(name) == facts["sha256"]
            except (FileNotFoundError, IsADirectoryError):
                same = False
            if not same:
                where = self.files.where(name)
                raise StageError("missing or changed since it was written", where=where, do="extract the frames again")

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        self.files.close()

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Files]]:
        return FrameStore, (self.files,)  # a spawned worker opens its own

    def _table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.files.table(name))
        except (OSError, pa.ArrowException) as error:
            why, where = str(error).splitlines()[0], self.files.where(name)
            raise StageError(f"unreadable table, {why}", where=where, do="extract the frames again") from None


class Files(Protocol):
    """Where the files of a store lie. Every method that reads raises FileNotFoundError."""

    def where(self, name: str) -> str:
        """Path or address of a file."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""

    def prefetch(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """These (name, offset, size) will be read next."""

    def whole(self, name: str) -> bytes:
        """A file's bytes."""

    def table(self, name: str) -> Any:
        """A file as pyarrow reads it."""

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hex."""

    def close(self) -> None:
        """Let go of what is open."""


class LocalFiles:
    """Files of a folder; descriptors stay open, and one positional read serves forked and threaded workers alike."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open_files: dict[str, _OpenFile] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LocalFiles], tuple[Path]]:
        return LocalFiles, (self.path,)

    def where(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str, offset: int, size: int) -> bytes:
        file = self._open(name)  # named, so that it stays open until the read is over
        return os.pread(file.fd, size, offset)

    def prefetch(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """The kernel reads ahead."""

    def whole(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def table(self, name: str) -> Path:
        return self.path / name

    def sha256(self, name: str) -> str:
        return hashing.file_hash(self.path / name)

    def close(self) -> None:
        self._open_files.clear()

    def _open(self, name: str) -> _OpenFile:
        file = self._open_files.get(name)
        if file is None:
            file = _OpenFile(self.path / name)
            with self._lock:
                if len(self._open_files) >= OPEN_SHARDS:
                    del self._open_files[next(iter(self._open_files))]
                self._open_files[name] = file
        return file


class _OpenFile:
    """An open file that closes with its last reference, so no thread loses it in the middle of a read."""

    __slots__ = ("fd",)

    def __init__(self, file: Path) -> None:
        self.fd = -1
        self.fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _files(path: str | os.PathLike[str]) -> Files:
    address = address_of(path)
    if address is None:
        return LocalFiles(Path(path))
    from components.common.s3.files import S3Files  # pays for boto3 only where a store is read

    return S3Files(address)


def _read_manifest(files: Files) -> dict[str, Any]:
    try:
        manifest = json.loads(files.whole(MANIFEST))
        found = manifest["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise StageError("no frame store here", where=files.where(""), do="run extract_frames") from None
    except (ValueError, TypeError, KeyError):
        raise StageError("unreadable manifest", where=files.where(MANIFEST), do="extract the frames again") from None
    if found != FORMAT:
        what = f"frame store of format {found}, this code reads {FORMAT}"
        raise StageError(what, where=files.where(""), do="extract again")
    return dict(manifest)


def __getattr__(name: str) -> Any:
    """The writer is found here too, but loaded only when asked for: loader workers read shards and need no pyarrow."""
    if name in ("Frame", "FrameStoreWriter", "VideoRow"):
        from components.common import frame_store_writer

        return getattr(frame_store_writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
