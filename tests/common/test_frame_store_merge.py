"""Merged stores are what one writer would have written, byte for byte."""

import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common import frame_store_merge, frame_store_rows, frame_store_writer, hashing
from components.common.errors import StageError
from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.common.frame_store_merge import merge_stores, read_batches
from tests.common.test_frame_store import jpeg

SHARD_BYTES = 6000  # five frames of these tests


def video(number, n_frames):
    """A source with its frames; every third is bad, every fourth of unknown rate."""
    if number % 3 == 2:
        return VideoRow(key=f"v{number}", path=f"v{number}.mp4", status="bad", reason="empty file"), []
    row = VideoRow(key=f"v{number}", path=f"v{number}.mp4", fps=None if number % 4 == 1 else 24.0)
    return row, [Frame(jpeg(number * 100 + i), i * 0.5, i * 12, cut=i == 2) for i in range(n_frames)]


def write(folder, parts, part=None):
    with FrameStoreWriter(folder, SHARD_BYTES, part) as store:
        for videos in parts:
            store.new_shard()
            for row, frames in videos:
                store.add(row, frames)
    return folder


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


CORPUS = [video(number, n_frames) for number, n_frames in enumerate([5, 0, 7, 1, 12, 3, 4, 2, 6, 9])]
CUTS = {
    "one": [CORPUS],
    "halves": [CORPUS[:5], CORPUS[5:]],
    "uneven": [CORPUS[:1], CORPUS[1:8], CORPUS[8:]],
    "each": [[entry] for entry in CORPUS],
    "empty and bad": [[], CORPUS[:2], CORPUS[2:3], [], CORPUS[3:], []],
}


@pytest.mark.parametrize("rows_per_group", [1, 4, 7, 1 << 17])
@pytest.mark.parametrize("parts", CUTS.values(), ids=CUTS)
def test_the_merged_store_is_the_written_one(tmp_path, monkeypatch, parts, rows_per_group):
    for module in (frame_store_rows, frame_store_merge):
        monkeypatch.setattr(module, "ROWS_PER_GROUP", rows_per_group)
    whole = write(tmp_path / "whole", parts)
    stores = [write(tmp_path / f"part{n}", [part], {"number": n}) for n, part in enumerate(parts)]
    totals = merge_stores(stores, tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    assert totals == {"frames": 33, "videos": 10, "videos_bad": 3}
    FrameStore(tmp_path / "merged").verify()
    assert frame_store_writer.content_hash(whole) == hashing.tree_hash(whole)
    for name in ("frames.parquet", "videos.parquet"):
        sizes = [
            pq.read_metadata(whole / name).row_group(n) for n in range(pq.read_metadata(whole / name).num_row_groups)
        ]
        assert all(group.num_rows == rows_per_group for group in sizes[:-1])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_any_cut_of_any_corpus_merges_to_the_written_store(counts, rows_per_group):
    numbers = itertools.count()
    parts = [[video(next(numbers), n_frames) for n_frames in part] for part in counts]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (frame_store_rows, frame_store_merge):
            patch.setattr(module, "ROWS_PER_GROUP", rows_per_group)
        whole = write(Path(folder, "whole"), parts)
        stores = [write(Path(folder, str(n)), [part], {"number": n}) for n, part in enumerate(parts)]
        merge_stores(stores, Path(folder, "merged"))
        assert content(Path(folder, "merged")) == content(whole)


def test_shards_are_links_where_that_is_possible_and_copies_elsewhere(tmp_path, monkeypatch):
    part = write(tmp_path / "part", [CORPUS])
    before = content(part)
    merge_stores([part], tmp_path / "linked")
    shard = "shard-000000.tar"
    assert (tmp_path / "linked" / shard).stat().st_ino == (part / shard).stat().st_ino

    def forbidden(source, target):
        raise PermissionError(1, "Operation not permitted", str(source))

    monkeypatch.setattr(os, "link", forbidden)
    merge_stores([part], tmp_path / "copied")
    assert (tmp_path / "copied" / shard).stat().st_ino != (part / shard).stat().st_ino
    assert content(tmp_path / "copied") == content(tmp_path / "linked") == before


def test_a_shard_that_is_a_symbolic_link_becomes_a_file(tmp_path):
    part = write(tmp_path / "part", [CORPUS])
    shard = part / "shard-000000.tar"
    shard.rename(tmp_path / "in-the-cache")
    shard.symlink_to(tmp_path / "in-the-cache")
    merge_stores([part], tmp_path / "merged")
    assert not (tmp_path / "merged" / shard.name).is_symlink()
    FrameStore(tmp_path / "merged").verify()


def test_a_damaged_part_is_named(tmp_path):
    good, bad = write(tmp_path / "good", [CORPUS[:3]]), tmp_path / "bad"

    def refused(match, damage):
        shutil.rmtree(bad, ignore_errors=True)
        write(bad, [CORPUS[3:]])
        damage()
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)
        with pytest.raises(StageError, match=match) as error:
            merge_stores([good, bad], tmp_path / "merged")
        assert "bad" in str(error.value)
        assert not (tmp_path / "merged" / "store.json").exists()

    shard, frames = bad / "shard-000001.tar", bad / "frames.parquet"
    for file in (shard, frames):
        refused("this file is missing", file.unlink)
        refused("not as it was written", lambda file=file: file.write_bytes(file.read_bytes()[:-1]))
        refused("not as it was written", lambda file=file: file.write_bytes(b"x" + file.read_bytes()[1:]))
    refused("no frame store", lambda: (bad / "store.json").unlink())


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "frames.parquet").write_bytes(b"PAR1 not really")
    pq.write_table(pa.table({"video": [1]}), tmp_path / "videos.parquet")
    for name in ("frames.parquet", "videos.parquet", "away.parquet"):
        with pytest.raises(StageError, match=rf"unreadable table.*{name}"):
            list(read_batches(tmp_path / name, frame_store_rows.VIDEO_COLUMNS))


def test_memory_does_not_grow_with_the_tables(tmp_path):
    """Half a million rows a part: the tables of four would be 100 MB, a row group is 6."""
    rows = 1 << 19
    columns = {
        "video": np.zeros(rows, np.int32), "frame": np.arange(rows), "pts_s": np.arange(rows) / 24.0,
        "shard": np.zeros(rows, np.int32), "offset": np.arange(rows) * 512, "size": np.full(rows, 9, np.int32),
        "height": np.full(rows, 9, np.int32), "width": np.full(rows, 9, np.int32), "cut": np.zeros(rows, bool),
    }  # fmt: skip
    part = write(tmp_path / "part", [[(VideoRow(key="v", path="v.mp4"), [])]])
    pq.write_table(pa.table(columns, schema=frame_store_rows.FRAME_COLUMNS), part / "frames.parquet")
    manifest = json.loads((part / "store.json").read_text())
    manifest["files"]["frames.parquet"]["sha256"] = hashing.file_hash(part / "frames.parquet")
    (part / "store.json").write_text(json.dumps({**manifest, "frames": rows}))
    peak = 0

    class Watched(frame_store_rows.Groups):
        def append(self, table):
            nonlocal peak
            super().append(table)
            peak = max(peak, pa.total_allocated_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_store_merge, "Groups", Watched)
        before = pa.total_allocated_bytes()
        merge_stores([part] * 4, tmp_path / "merged")
    assert pq.read_metadata(tmp_path / "merged" / "frames.parquet").num_rows == 4 * rows
    assert peak - before < 40 << 20, peak - before
