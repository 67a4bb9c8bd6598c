"""The frame store: what goes in comes out, any tar tool opens it, trouble has a name."""

import io
import json
import multiprocessing
import tarfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from components.common import frame_store
from components.common.errors import StageError
from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from tests.worker import in_a_worker


def jpeg(seed, height=12, width=16):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def frames(first, count):
    return [Frame(jpeg(first + i), i * 0.5, i * 12, cut=i == 2) for i in range(count)]


CONTENT = {"a": frames(0, 5), "folder/" + "long" * 40: frames(10, 4), "caf\u00e9": frames(20, 3)}


def write(path, content=CONTENT, shard_bytes=4000):
    with FrameStoreWriter(path, shard_bytes) as store:
        for key, video in content.items():
            store.add(VideoRow(key=key, path=f"{key}.mp4", fps=24.0, rotation=90), video)
        store.add(VideoRow(key="bad", path="bad.mp4", status="bad", reason="empty file"))
    return FrameStore(path)


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store")


def test_every_frame_is_read_back_by_its_row(store):
    rows = store.frames.to_pylist()
    wanted = [(key, frame) for key, video in CONTENT.items() for frame in video]
    keys = store.videos["key"].to_pylist()
    assert len(rows) == len(wanted) == store.n_frames
    for row, (key, frame) in zip(rows, wanted, strict=True):
        assert keys[row["video"]] == key
        assert (row["pts_s"], row["frame"], row["cut"]) == (frame.pts_s, frame.frame, frame.cut)
        assert (row["height"], row["width"]) == (12, 16)
        assert store.read(row["shard"], row["offset"], row["size"]) == frame.jpeg
    store.verify()


def test_columns_have_the_types_that_the_index_maps(store):
    types = {field.name: str(field.type) for field in store.frames.schema}
    assert types == {
        "video": "int32", "frame": "int64", "pts_s": "double", "shard": "int32", "offset": "int64",
        "size": "int32", "height": "int32", "width": "int32", "cut": "bool",
    }  # fmt: skip


def test_bad_videos_are_rows_without_frames(store):
    bad = store.videos.to_pylist()[-1]
    assert (bad["status"], bad["reason"], bad["n_frames"], bad["fps"]) == ("bad", "empty file", 0, None)
    assert store.videos["n_frames"].to_pylist() == [5, 4, 3, 0]


def test_any_tar_tool_opens_the_shards(store):
    found = {}
    for shard in sorted(store.path.glob("*.tar")):
        assert shard.stat().st_size <= 4000
        with tarfile.open(shard) as archive:
            found.update({member.name: archive.extractfile(member).read() for member in archive})
    assert found == {f"{key}/{frame.frame:08d}.jpg": frame.jpeg for key, video in CONTENT.items() for frame in video}


def test_same_input_same_bytes(store, tmp_path):
    again = write(tmp_path / "again")
    assert {f.name: f.read_bytes() for f in store.path.iterdir()} == {
        f.name: f.read_bytes() for f in again.path.iterdir()
    }
    assert again.fingerprint == store.fingerprint


def test_a_frame_larger_than_a_shard_gets_one_of_its_own(tmp_path):
    large = [Frame(jpeg(0, 64, 64), 0.0, 0), Frame(jpeg(1, 64, 64), 1.0, 1)]
    store = write(tmp_path / "store", {"a": large}, shard_bytes=1000)
    assert store.manifest["shards"] == 2
    assert [store.read(r["shard"], r["offset"], r["size"]) for r in store.frames.to_pylist()] == [f.jpeg for f in large]


def test_an_empty_store_is_a_store(tmp_path):
    store = write(tmp_path / "store", {})
    assert (store.n_frames, store.frames.num_rows, store.videos.num_rows) == (0, 0, 1)
    store.verify()


def read_all(store):
    return [store.read(r["shard"], r["offset"], r["size"]) for r in store.frames.to_pylist()]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_a_reader(store, method):
    expected = read_all(store)  # the shards are open before the workers start
    places = [(row["shard"], row["offset"], row["size"]) for row in store.frames.to_pylist()]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(store.read, places * 20) == expected * 20


def test_threads_share_a_reader_that_may_open_few_shards(store, monkeypatch):
    monkeypatch.setattr(frame_store, "OPEN_SHARDS", 1)
    expected = read_all(store)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_all, [store] * 20)) == [expected] * 20
    store.close()
    assert read_all(in_a_worker(store)) == expected


def test_a_short_or_missing_shard_is_named(store):
    last = store.frames.to_pylist()[-1]
    shard = store.path / f"shard-{last['shard']:06d}.tar"
    shard.write_bytes(shard.read_bytes()[: last["offset"] + 10])
    with pytest.raises(StageError, match=shard.name):
        store.read(last["shard"], last["offset"], last["size"])
    with pytest.raises(StageError, match=shard.name):
        store.verify()
    shard.unlink()
    with pytest.raises(StageError, match=rf"missing shard: .*{shard.name}"):
        FrameStore(store.path).read(last["shard"], last["offset"], last["size"])


def test_what_is_no_frame_store_is_said_so(tmp_path, store):
    with pytest.raises(StageError, match="no frame store here"):
        FrameStore(tmp_path / "nothing")
    (store.path / "store.json").write_text("{}")
    with pytest.raises(StageError, match="unreadable manifest"):
        FrameStore(store.path)
    (store.path / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StageError, match="format 99"):
        FrameStore(store.path)


def test_a_damaged_table_is_said_so(store):
    (store.path / "frames.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(StageError, match=r"unreadable table.*frames.parquet"):
        _ = FrameStore(store.path).frames


def test_a_writer_that_fails_leaves_no_manifest(tmp_path):
    with pytest.raises(StageError, match="follows one at"), FrameStoreWriter(tmp_path / "s") as store:
        store.add(VideoRow(key="a", path="a.mp4"), [Frame(jpeg(0), 1.0, 1), Frame(jpeg(1), 1.0, 2)])
    with pytest.raises(StageError, match="two videos with the key 'a'"), FrameStoreWriter(tmp_path / "t") as store:
        store.add(VideoRow(key="a", path="a.mp4"))
        store.add(VideoRow(key="a", path="b/a.mp4"))
    for folder in ("s", "t"):
        with pytest.raises(StageError, match="no frame store here"):
            FrameStore(tmp_path / folder)


def test_rows_reach_the_table_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("components.common.frame_store_rows.ROWS_PER_GROUP", 2)
    store = write(tmp_path / "store")
    assert store.frames["frame"].to_pylist() == [f.frame for video in CONTENT.values() for f in video]


def test_webdataset_would_group_a_frame_by_its_name(store):
    """One sample per file: the part before the first dot of the last path component, as WebDataset splits names."""
    with tarfile.open(fileobj=io.BytesIO((store.path / "shard-000000.tar").read_bytes())) as archive:
        names = archive.getnames()
    assert all(name.rsplit("/", 1)[1].count(".") == 1 for name in names)
    assert len({name.rsplit(".", 1)[0] for name in names}) == len(names)
