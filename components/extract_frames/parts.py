"""Finished videos as parts in a folder that survives kills, and the frame store that is put together from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.common.errors import StageError
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.outputs import atomic_file
from components.extract_frames.find import Source
from components.extract_frames.video import BadVideoError, Decoder, Extracted, bad_row

SHOWN = 10  # bad videos named in the error
COLUMNS = ("offset", "size", "pts_s", "frame", "cut")


class Parts:
    """One pair of files per finished video; the table is renamed in last and thereby says that the part is whole.

    Until the stage is done, parts and frame store lie side by side: the disk must hold the frames twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "parts"
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
        return row, self._frames(source, {name: table[name].to_numpy() for name in COLUMNS})

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


def assemble(sources: list[Source], bad: dict[str, VideoRow], parts: Parts, folder: Path, shard_bytes: int) -> int:
    """Write the frame store of `sources` in their order; returns the number of frames.

    The bytes depend on the sources alone: not on who made which part when, nor on how often that was interrupted.
    """
    total = 0
    with FrameStoreWriter(folder, shard_bytes) as store:
        for source in sources:
            total += store.add(bad[source.key]) if source.key in bad else store.add(*parts.load(source))
    return total


def check_share(bad: dict[str, VideoRow], n_sources: int, max_bad_share: float) -> None:
    """Raise StageError when more than the stated share of the videos, or every one, is bad."""
    if len(bad) <= max_bad_share * n_sources and len(bad) < n_sources:
        return
    shown = ", ".join(f"{row.path} ({row.reason})" for row in list(bad.values())[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    if len(bad) == n_sources:
        raise StageError(f"no frame in any of {n_sources} videos: {shown}{more}")
    allowed = int(max_bad_share * n_sources)
    what = f"{len(bad)} of {n_sources} videos are unreadable, {allowed} may be: {shown}{more}"
    raise StageError(what, do="remove or replace them, or raise max_bad_share")
