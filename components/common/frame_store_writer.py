"""Writes a frame store (see frame_store.py for the layout), video by video, in order; same input, same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from components.common import hashing
from components.common.errors import StageError
from components.common.frame_store import BAD, FORMAT, FRAMES, MANIFEST, OBJECTS, OK, VIDEOS
from components.common.frame_store_journal import Journal
from components.common.frame_store_rows import FRAME_COLUMNS, OBJECT_COLUMNS, VIDEO_COLUMNS, Table
from components.common.frame_store_shards import Member, ShardWriter
from components.common.jpeg import jpeg_size

DEFAULT_SHARD_BYTES = 256 << 20


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
    is: what a part of a larger store says of itself. With `objects` there is a table of them, empty or not. With a
    `journal` of the same store, the whole shards that a killed process left in the folder are kept.

    Attributes:
        n_done: videos that need not be added again.
        n_begun: frames of the next video that are there already: it is added without them.
    """

    def __init__(
        self,
        path: Path,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        part: Mapping[str, object] | None = None,
        objects: bool = False,
        journal: Journal | None = None,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self._part, self._journal = path, part, journal
        done = journal.kept(path) if journal is not None else {}
        self._shards = ShardWriter(path, shard_bytes, done, self._note_shard if journal is not None else None)
        columns = {FRAMES: FRAME_COLUMNS, VIDEOS: VIDEO_COLUMNS, **({OBJECTS: OBJECT_COLUMNS} if objects else {})}
        self._tables = {name: Table(path / name, schema, journal is not None) for name, schema in columns.items()}
        self._keys: set[str] = set()
        self._n_bad, self.n_done, self.n_begun = 0, 0, 0
        if journal is not None:
            self._restore(journal)

    @property
    def n_frames(self) -> int:
        """Frames so far."""
        return self._tables[FRAMES].n_rows

    def add(self, video: VideoRow, frames: Iterable[Frame] = ()) -> int:
        """Append a source and its frames in time order; returns the number of frames.

        Raises:
            StageError: the key was used before, or time does not move forward.
        """
        if video.key in self._keys:
            raise StageError(f"two videos with the key '{video.key}'", where=video.path)
        self._keys.add(video.key)
        videos, before, last = self._tables[VIDEOS], self.n_frames - self.n_begun, None
        for frame in frames:
            if last is not None and not (frame.pts_s > last.pts_s and frame.frame > last.frame):
                raise StageError(f"frame at {frame.pts_s} s follows one at {last.pts_s} s", where=video.path)
            self._add_frame(videos.n_rows, video.key, frame)
            last = frame
        count, self.n_begun = self.n_frames - before, 0
        row = {**dataclasses.asdict(video), "video": videos.n_rows, "n_frames": count}
        videos.append(tuple(row[name] for name in VIDEO_COLUMNS.names))
        self._n_bad += video.status == BAD
        return count

    def new_shard(self) -> None:
        """Let the next frame begin a shard."""
        self._shards.close()

    def close(self) -> None:
        """Finish the tables and the last shard, then write the manifest."""
        totals = {"frames": self.n_frames, "videos": self._tables[VIDEOS].n_rows, "videos_bad": self._n_bad}
        if OBJECTS in self._tables:
            totals["objects"] = self._tables[OBJECTS].n_rows
        self._shards.close()
        for table in self._tables.values():
            table.close()
        if self._journal is not None:
            self._journal.close()
        write_manifest(self.path, totals, self._shards.done, self._part)

    def __enter__(self) -> FrameStoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            for table in self._tables.values():
                table.abandon()
            self._shards.abandon()
            if self._journal is not None:
                with contextlib.suppress(OSError):  # there is trouble enough
                    self._journal.close()

    def _add_frame(self, video: int, key: str, frame: Frame) -> None:
        name, objects = f"{key}/{frame.frame:08d}", self._tables.get(OBJECTS)
        height, width = jpeg_size(frame.jpeg)
        members = [Member(f"{name}.jpg", frame.jpeg)]
        if frame.labels and frame.objects and objects is not None:
            members.append(Member(f"{name}.png", frame.labels))
        (shard, offset), *labels = self._shards.append(*members)
        row = (video, frame.frame, frame.pts_s, shard, offset, len(frame.jpeg), height, width, frame.cut)
        self._tables[FRAMES].append(row)
        if objects is not None:
            place = (*labels[0], len(frame.labels)) if labels else (None, None, None)
            for box in frame.objects:
                objects.append((video, frame.frame, *box, *place))

    def _note_shard(self, name: str) -> None:
        """Called between two frames: all rows so far are of whole shards."""
        assert self._journal is not None
        rows = {table: made.taken() for table, made in self._tables.items()}
        self._journal.add(self.path, name, self._shards.done[name], rows)

    def _restore(self, journal: Journal) -> None:
        in_whole_videos = 0
        for name, table in self._tables.items():
            for rows in journal.rows(name, table.schema):
                table.restore(rows)
                if name == VIDEOS:
                    self._keys.update(rows["key"].to_pylist())
                    self._n_bad += rows["status"].to_pylist().count(BAD)
                    in_whole_videos += sum(rows["n_frames"].to_pylist())
        self.n_done, self.n_begun = self._tables[VIDEOS].n_rows, self.n_frames - in_whole_videos


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
