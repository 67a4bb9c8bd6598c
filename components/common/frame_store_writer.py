"""Writes a frame store (see frame_store.py for the layout), video by video, in order; same input, same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.common import hashing
from components.common.errors import StageError
from components.common.frame_store import BAD, FORMAT, FRAMES, MANIFEST, OBJECTS, OK, VIDEOS, shard_name
from components.common.jpeg import jpeg_size

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)
ROWS_PER_GROUP = 1 << 17  # rows held in memory before they go to the file: some ten megabytes
DEFAULT_SHARD_BYTES = 256 << 20

FRAME_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("frame", pa.int64()),
        ("pts_s", pa.float64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("cut", pa.bool_()),
    ]
)
VIDEO_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("key", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("fps", pa.float64()),
        ("duration_s", pa.float64()),
        ("n_frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
OBJECT_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("frame", pa.int64()),
        ("track", pa.int32()),
        ("category", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("shard", pa.int32()),  # of the frame's label map, and where it lies there; empty where there is none
        ("offset", pa.int64()),
        ("size", pa.int32()),
    ]
)


class TrackBox(NamedTuple):
    """An object in a frame: its track, unique in the video, and its box [x0, x1) x [y0, y1) in pixels of the frame."""

    track: int
    category: str
    x0: float
    y0: float
    x1: float
    y1: float


class Frame(NamedTuple):
    """One frame: its JPEG file, seconds since the video's first, its number in the source, a cut just before it.

    `objects` by rising track; `labels` is a PNG of the frame's size whose pixels are track + 1, or empty.
    """

    jpeg: bytes
    pts_s: float
    frame: int
    cut: bool = False
    objects: tuple[TrackBox, ...] = ()
    labels: bytes = b""


@dataclass(frozen=True)
class VideoRow:
    """One source, good or bad. Unknown `fps` and `duration_s` are None; `width`, `height` are the source's, as coded;
    `rotation` is in clockwise degrees and already applied to the frames; `reason` is empty for a whole good video."""

    key: str
    path: str
    sha256: str = ""
    fps: float | None = None
    duration_s: float | None = None
    width: int = 0
    height: int = 0
    rotation: int = 0
    status: str = OK
    reason: str = ""


class FrameStoreWriter:
    """Fills a new folder with a frame store.

        with FrameStoreWriter(folder) as store:
            store.add(VideoRow(key="a", path="a.mp4"), [Frame(jpeg, 0.0, 0), Frame(jpeg, 0.5, 12)])

    The store counts as one only when the block ends well: its manifest is written last. `part` is put into it as it
    is: what a part of a larger store says of itself. With `objects` there is a table of them, empty or not.
    """

    def __init__(
        self,
        path: Path,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        part: Mapping[str, object] | None = None,
        objects: bool = False,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self._part = path, part
        self._shards = _ShardWriter(path, shard_bytes)
        self._frames = _Table(path / FRAMES, FRAME_COLUMNS)
        self._videos = _Table(path / VIDEOS, VIDEO_COLUMNS)
        self._objects = _Table(path / OBJECTS, OBJECT_COLUMNS) if objects else None
        self._keys: set[str] = set()
        self._n_bad = 0

    def add(self, video: VideoRow, frames: Iterable[Frame] = ()) -> int:
        """Append a source and its frames in time order; returns the number of frames.

        Raises:
            StageError: the key was used before, or time does not move forward.
        """
        if video.key in self._keys:
            raise StageError(f"two videos with the key '{video.key}'", where=video.path)
        self._keys.add(video.key)
        number, before, last = self._videos.n_rows, self._frames.n_rows, None
        for frame in frames:
            if last is not None and not (frame.pts_s > last.pts_s and frame.frame > last.frame):
                raise StageError(f"frame at {frame.pts_s} s follows one at {last.pts_s} s", where=video.path)
            self._add_frame(number, video.key, frame)
            last = frame
        count = self._frames.n_rows - before
        row = {**dataclasses.asdict(video), "video": number, "n_frames": count}
        self._videos.append(tuple(row[name] for name in VIDEO_COLUMNS.names))
        self._n_bad += video.status == BAD
        return count

    def new_shard(self) -> None:
        """Let the next frame begin a shard."""
        self._shards.close()

    def close(self) -> None:
        """Finish the tables and the last shard, then write the manifest."""
        totals = {"frames": self._frames.n_rows, "videos": self._videos.n_rows, "videos_bad": self._n_bad}
        if self._objects is not None:
            totals["objects"] = self._objects.n_rows
        for table in self._tables:
            table.close()
        self._shards.close()
        write_manifest(self.path, totals, self._shards.done, self._part)

    def __enter__(self) -> FrameStoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            for table in self._tables:
                table.abandon()
            self._shards.abandon()

    @property
    def _tables(self) -> list[_Table]:
        return [table for table in (self._frames, self._videos, self._objects) if table is not None]

    def _add_frame(self, video: int, key: str, frame: Frame) -> None:
        height, width = jpeg_size(frame.jpeg)
        shard, offset = self._shards.append(f"{key}/{frame.frame:08d}.jpg", frame.jpeg)
        size = len(frame.jpeg)
        self._frames.append((video, frame.frame, frame.pts_s, shard, offset, size, height, width, frame.cut))
        if self._objects is not None and frame.objects:
            place: tuple[int | None, ...] = (None, None, None)
            if frame.labels:  # beside the frame, under its name: WebDataset takes both for one sample
                place = (*self._shards.append(f"{key}/{frame.frame:08d}.png", frame.labels), len(frame.labels))
            for box in frame.objects:
                self._objects.append((video, frame.frame, *box, *place))


def write_manifest(
    path: Path,
    totals: Mapping[str, int],
    shards: Mapping[str, dict[str, object]],
    part: Mapping[str, object] | None = None,
) -> None:
    """Write store.json, the last file of a store.

    Args:
        path: folder of the store, with both tables finished.
        totals: frames, videos, videos_bad, and objects where the store has a table of them.
        shards: name -> bytes and sha256 of each shard.
        part: what a part of a larger store says of itself.
    """
    files = dict(shards)
    for name in (FRAMES, VIDEOS, *([OBJECTS] if "objects" in totals else [])):
        files[name] = {"bytes": (path / name).stat().st_size, "sha256": hashing.file_hash(path / name)}
    manifest = {"format": FORMAT, **totals, "shards": len(shards), "files": files}
    if part is not None:
        manifest["part"] = dict(part)
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def content_hash(path: Path) -> str:
    """The folder's `hashing.tree_hash`, of the hashes in its manifest: shards are hashed while they are written."""
    files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    return hashing.tree_hash(path, known={name: facts["sha256"] for name, facts in files.items()})


class _Table:
    """A parquet file that grows row by row and is held in memory one row group at a time."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self.n_rows = 0
        self._schema, self._rows = schema, list[tuple[object, ...]]()
        self._writer = pq.ParquetWriter(file, schema)

    def append(self, row: tuple[object, ...]) -> None:
        self._rows.append(row)
        self.n_rows += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows = []


class _ShardWriter:
    """Appends members to tar files of a bounded size and hashes them on the way."""

    def __init__(self, path: Path, limit: int) -> None:
        self.done: dict[str, dict[str, object]] = {}
        self._path, self._limit = path, limit
        self._file: BinaryIO | None = None
        self._hash, self._at = hashlib.sha256(), 0

    def append(self, name: str, data: bytes) -> tuple[int, int]:
        """(shard, offset of the data in it)."""
        header = _tar_header(name, len(data))
        padding = bytes(-len(data) % BLOCK)
        full = self._at + len(header) + len(data) + len(padding) + len(END_OF_TAR) > self._limit
        if self._file is not None and full and self._at > 0:  # one frame above the limit still gets its own shard
            self.close()
        if self._file is None:
            self._file = (self._path / shard_name(len(self.done))).open("wb", buffering=1 << 20)
        offset = self._at + len(header)
        for piece in (header, data, padding):
            self._write(piece)
        return len(self.done), offset

    def close(self) -> None:
        if self._file is None:
            return
        self._write(END_OF_TAR)
        self._file.close()
        self.done[shard_name(len(self.done))] = {"bytes": self._at, "sha256": self._hash.hexdigest()}
        self._file, self._hash, self._at = None, hashlib.sha256(), 0

    def abandon(self) -> None:
        """Close without finishing; the folder is not a store and its owner throws it away."""
        if self._file is not None:
            self._file.close()

    def _write(self, piece: bytes) -> None:
        assert self._file is not None
        self._file.write(piece)
        self._hash.update(piece)
        self._at += len(piece)


def _tar_header(name: str, size: int) -> bytes:
    """Header of a member without owner or time; a name too long or not ASCII adds a pax record in front."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
