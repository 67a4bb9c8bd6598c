"""Puts frame stores one behind the other, without decoding or copying a frame where links are possible.

The result is the store that one writer would have written, byte for byte, had it begun a shard at each part: shards
keep their bytes and get new numbers, tables get new video and shard numbers and the writer's row groups.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.common.errors import StageError
from components.common.frame_store import FRAMES, VIDEOS, FrameStore, shard_name
from components.common.frame_store_writer import FRAME_COLUMNS, ROWS_PER_GROUP, VIDEO_COLUMNS, write_manifest

AGAIN = "extract that part again"
TOTALS = ("frames", "videos", "videos_bad")


def merge_stores(parts: Sequence[Path], folder: Path) -> dict[str, int]:
    """Write the store of all `parts`, in their order, into a new `folder`; memory holds two row groups at most.

    Shards are hard links where the file system allows it, else copies; the parts stay as they are.

    Returns:
        Totals of the store: frames, videos, videos_bad.

    Raises:
        StageError: a part is no frame store, lacks a shard, or has a table or shard of another size than it says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    totals, shards = dict.fromkeys(TOTALS, 0), dict[str, dict[str, object]]()
    with (
        contextlib.closing(_Groups(folder / FRAMES, FRAME_COLUMNS)) as frames,
        contextlib.closing(_Groups(folder / VIDEOS, VIDEO_COLUMNS)) as videos,
    ):
        for part in parts:
            manifest, before = FrameStore(part).manifest, {"video": totals["videos"], "shard": len(shards)}
            for batch in read_batches(part / FRAMES, FRAME_COLUMNS):
                frames.append(_shifted(batch, before))
            for batch in read_batches(part / VIDEOS, VIDEO_COLUMNS):
                videos.append(_shifted(batch, before))
            for number in range(manifest["shards"]):
                name = shard_name(len(shards))
                _link(part / shard_name(number), folder / name, manifest["files"][shard_name(number)]["bytes"])
                shards[name] = manifest["files"][shard_name(number)]
            for name in TOTALS:
                totals[name] += manifest[name]
            if (frames.n_rows, videos.n_rows) != (totals["frames"], totals["videos"]):
                raise StageError("its tables have other rows than its manifest says", where=part, do=AGAIN)
    write_manifest(folder, totals, shards)
    return totals


def read_batches(file: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """A parquet table in pieces of at most a row group; raises StageError where it is damaged or has other columns."""
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(ROWS_PER_GROUP):
                yield pa.Table.from_batches([batch]).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StageError(f"unreadable table, {str(error).splitlines()[0]}", where=file, do=AGAIN) from None


def _shifted(table: pa.Table, before: dict[str, int]) -> pa.Table:
    """Numbers of videos and shards counted from the first part on."""
    for name, count in before.items():
        at = table.schema.get_field_index(name)
        if at >= 0:
            column = pc.add_checked(table[name], pa.scalar(count, table.schema.field(at).type))
            table = table.set_column(at, table.schema.field(at), column)
    return table


class _Groups:
    """A parquet file whose row groups are cut as the store's writer cuts them, whatever pieces come in."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self.n_rows = 0
        self._rows = schema.empty_table()
        self._writer = pq.ParquetWriter(file, schema)

    def append(self, table: pa.Table) -> None:
        self.n_rows += table.num_rows
        self._rows = pa.concat_tables([self._rows, table])
        while self._rows.num_rows >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def close(self) -> None:
        if self._rows.num_rows:
            self._flush(self._rows.num_rows)
        self._writer.close()

    def _flush(self, count: int) -> None:
        """Write the first rows; in one chunk, since the bytes of a row group depend on how it is cut in memory."""
        self._writer.write_table(self._rows.slice(0, count).combine_chunks())
        self._rows = self._rows.slice(count)


def _link(source: Path, target: Path, size: Any) -> None:
    """A second name for the shard; a copy on another file system, or where links are forbidden."""
    source = source.resolve()  # DVC may have placed a symbolic link
    if not source.is_file() or source.stat().st_size != size:
        raise StageError("missing shard, or of another size than when it was written", where=source, do=AGAIN)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
