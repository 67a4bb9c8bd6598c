"""Puts frame stores one behind the other, without decoding or copying a frame where links are possible.

The result is the store that one writer would have written, byte for byte, had it begun a shard at each part: shards
keep their bytes and get new numbers, tables get new video and shard numbers and the writer's row groups.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.common import hashing
from components.common.cores import usable_cores
from components.common.errors import StageError
from components.common.frame_store import FRAMES, OBJECTS, VIDEOS, FrameStore, shard_name
from components.common.frame_store_rows import FRAME_COLUMNS, OBJECT_COLUMNS, ROWS_PER_GROUP, VIDEO_COLUMNS, Groups
from components.common.frame_store_writer import write_manifest

AGAIN = "extract that part again"


def merge_stores(parts: Sequence[Path], folder: Path) -> dict[str, int]:
    """Write the store of all `parts`, in their order, into a new `folder`; memory holds two row groups at most.

    Shards become hard links where the file system allows it, else copies; the parts stay as they are.

    Returns:
        Totals of the store: frames, videos, videos_bad, and objects where the parts have them.

    Raises:
        StageError: a part is no frame store, or one of its files is missing or not as it was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifests = [FrameStore(part).manifest for part in parts]
    tables, counted = [(FRAMES, FRAME_COLUMNS), (VIDEOS, VIDEO_COLUMNS)], ["frames", "videos", "videos_bad"]
    if "objects" in manifests[0]:  # one set of parameters made all parts
        tables.append((OBJECTS, OBJECT_COLUMNS))
        counted.append("objects")
    for table, schema in tables:
        _merge_table(table, schema, parts, manifests, folder)
    shards = [
        (part / name, manifest["files"][name])
        for part, manifest in zip(parts, manifests, strict=True)
        for name in map(shard_name, range(manifest["shards"]))
    ]
    names = [shard_name(number) for number in range(len(shards))]
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing lets go of the interpreter lock
        list(pool.map(_take, shards, [folder / name for name in names]))
    totals = {name: sum(manifest[name] for manifest in manifests) for name in counted}
    write_manifest(folder, totals, {name: facts for name, (_, facts) in zip(names, shards, strict=True)})
    return totals


def _merge_table(
    name: str, schema: pa.Schema, parts: Sequence[Path], manifests: Sequence[dict[str, Any]], folder: Path
) -> None:
    """Rows of all parts with their videos and shards counted from the first part on."""
    before = {"video": 0, "shard": 0}
    with contextlib.closing(Groups(folder / name, schema)) as table:
        for part, manifest in zip(parts, manifests, strict=True):
            _check(part / name, manifest["files"][name])
            for batch in read_batches(part / name, schema):
                table.append(_shifted(batch, before))
            before = {"video": before["video"] + manifest["videos"], "shard": before["shard"] + manifest["shards"]}


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


def _take(shard: tuple[Path, Mapping[str, Any]], target: Path) -> None:
    """Link or copy a shard, and check what lies there then."""
    source, facts = shard
    try:
        _link(source.resolve(), target)  # DVC may have placed a symbolic link
    except FileNotFoundError:
        raise StageError("this file is missing", where=source, do=AGAIN) from None
    _check(target, facts, source)


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy on another file system, or where links are forbidden."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check(file: Path, facts: Mapping[str, Any], source: Path | None = None) -> None:
    """Compare a file with what the part wrote: it has come a long way, and nobody else does."""
    if not file.is_file():
        raise StageError("this file is missing", where=source or file, do=AGAIN)
    if hashing.file_hash(file) != facts["sha256"]:
        raise StageError("this file is not as it was written", where=source or file, do=AGAIN)
