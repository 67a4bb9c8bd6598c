"""Finished videos in a folder that survives kills, and the frame store that is put together from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from components.common.errors import StageError
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.jpeg import jpeg_size
from components.common.outputs import atomic_file
from components.extract_frames import objects, palette
from components.extract_frames.annotations import Tracks
from components.extract_frames.find import Source
from components.extract_frames.objects import VideoObjects
from components.extract_frames.palette import PaletteMasks
from components.extract_frames.video import BadVideoError, Decoder, Extracted, bad_row

SHOWN = 10  # bad videos named in the error
COLUMNS = ("offset", "size", "pts_s", "frame", "cut")
OBJECTS = ".objects"  # suffix of the file with a video's objects


class Finished:
    """A pair of files per finished video, and one with its objects where `tracks` tells of them; the table is renamed
    in last and thereby says that the video is whole.

    Until the stage is done, they and the frame store lie side by side: the disk must hold the frames twice.
    """

    def __init__(self, folder: Path, tracks: Tracks | PaletteMasks | None = None) -> None:
        self.folder, self.tracks = folder / "finished", tracks
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, source: Source) -> bool:
        """Whether this video was finished, by this process or one that was killed."""
        return self._file(source, ".parquet").exists()

    def make(self, source: Source, decoder: Decoder) -> VideoRow:
        """Extract one video and keep it; a bad one leaves nothing behind and is tried again by the next run."""
        try:
            with atomic_file(self._file(source, ".mjpeg")) as partial, partial.open("wb") as jpegs:
                extracted = decoder.extract(source, jpegs)
        except BadVideoError as bad:
            return bad_row(source, str(bad))
        if (
            self.tracks is not None
        ):  # here, beside ffmpeg's work: reading a long video's boxes takes a tenth of a second
            objects.save(self._file(source, OBJECTS), self._objects_of(extracted))
        self._write_table(source, extracted)
        return extracted.video

    def n_frames(self, source: Source) -> int:
        """Frames of a finished video, from the table's footer alone."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(self._file(source, ".parquet")).num_rows)

    def load(self, source: Source) -> tuple[VideoRow, Iterator[Frame]]:
        """The row of a finished video and its frames, read one by one."""
        import pyarrow.parquet as pq

        table = pq.read_table(self._file(source, ".parquet"))
        row = VideoRow(**json.loads(table.schema.metadata[b"video"]))
        columns = {name: table[name].to_numpy() for name in COLUMNS}
        frames = self._frames(source, columns)
        return row, frames if self.tracks is None else self._with_objects(source, frames, len(table))

    def objects(self, source: Source) -> objects.VideoObjects:
        """The objects of a finished video."""
        return objects.load(self._file(source, OBJECTS))

    def _objects_of(self, extracted: Extracted) -> VideoObjects:
        if isinstance(self.tracks, PaletteMasks):
            return palette.objects_of(extracted, self.tracks)
        assert self.tracks is not None
        return objects.objects_of(extracted, self.tracks)

    def _with_objects(self, source: Source, frames: Iterator[Frame], n_frames: int) -> Iterator[Frame]:
        assert self.tracks is not None
        masks = self.tracks if isinstance(self.tracks, PaletteMasks) else None
        table = masks.table(source.key) if masks is not None and source.key in masks.names else None
        told = objects.per_frame(self.objects(source), self.tracks.label_maps(source.key), n_frames)
        for frame, (own, label_map) in zip(frames, told, strict=True):
            size = jpeg_size(frame.jpeg)
            if label_map is None:
                yield frame._replace(objects=objects.in_pixels(own, *size))
            else:
                boxes, labels = objects.with_labels(own, label_map, *size, table)
                yield frame._replace(objects=boxes, labels=labels)

    def _frames(self, source: Source, columns: dict[str, np.ndarray]) -> Iterator[Frame]:
        with self._file(source, ".mjpeg").open("rb") as jpegs:
            for offset, size, pts_s, frame, cut in zip(*(columns[name] for name in COLUMNS), strict=True):
                jpegs.seek(int(offset))
                yield Frame(jpegs.read(int(size)), float(pts_s), int(frame), bool(cut))

    def _write_table(self, source: Source, extracted: Extracted) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: getattr(extracted, name) for name in COLUMNS})
        row = json.dumps(dataclasses.asdict(extracted.video))
        with atomic_file(self._file(source, ".parquet")) as partial:
            pq.write_table(table.replace_schema_metadata({"video": row}), partial)

    def _file(self, source: Source, suffix: str) -> Path:
        name = hashlib.sha256(source.key.encode()).hexdigest()[:32]  # a key may be too long for a file name
        return self.folder / f"{name}{suffix}"


def assemble(
    parts: list[list[Source]],
    bad: dict[str, VideoRow],
    finished: Finished,
    folder: Path,
    shard_bytes: int,
    part: dict[str, object] | None = None,
) -> int:
    """Write the frame store of the videos of `parts` in their order; returns the number of frames.

    The bytes depend on the videos alone: not on who made which one when, nor on how often that was interrupted. Each
    part starts a shard, so that shards made elsewhere, part by part, are the same files.

    Args:
        part: what the manifest shall say of this store if it is one part of a corpus.
    """
    total = 0
    with FrameStoreWriter(folder, shard_bytes, part=part, objects=finished.tracks is not None) as store:
        for sources in parts:
            store.new_shard()
            for source in sources:
                total += store.add(bad[source.key]) if source.key in bad else store.add(*finished.load(source))
    return total


def check_share(shown: Iterable[VideoRow], n_bad: int, n_videos: int, max_bad_share: float) -> None:
    """Raise StageError when more than the stated share of the videos, or every one, is bad.

    Args:
        shown: the bad ones; no more than a few are asked for.
        n_bad: how many there are.
        n_videos: how many videos the corpus has.
        max_bad_share: from 0 to 1.
    """
    if n_bad <= max_bad_share * n_videos and n_bad < n_videos:
        return
    named = ", ".join(f"{row.path} ({row.reason})" for row in islice(shown, SHOWN))
    more = f" and {n_bad - SHOWN} more" if n_bad > SHOWN else ""
    if n_bad == n_videos:
        raise StageError(f"no frame in any of {n_videos} videos: {named}{more}")
    allowed = int(max_bad_share * n_videos)
    what = f"{n_bad} of {n_videos} videos are unreadable, {allowed} may be: {named}{more}"
    raise StageError(what, do="remove or replace them, or raise max_bad_share")
