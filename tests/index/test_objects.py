"""Objects in the index: read from the store, mapped, shared by the frames of a draw; against naive loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.clip_index import ClipIndex, write_index
from components.common.errors import StageError
from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.common.frame_store_writer import TrackBox
from components.common.stage import main
from components.index import objects as index_objects
from components.index.__main__ import STAGE, run
from components.index.draws import build_draw
from components.index.objects import ObjectTable
from components.index.table import read_table

from .conftest import jpeg, make_table, params, picture, shifted

FPS, N = 6, 12


def boxes_of(video: int, frame: int) -> tuple[TrackBox, ...]:
    """Track 2 all the time, 5 in the first half, 9 in the second one; both of those are boats. Video 1 shows none."""
    if video == 1:
        return ()
    side = TrackBox(5, "boat", 1, 2, 31, 22) if frame < N // 2 else TrackBox(9, "boat", 60, 2, 90, 22.5)
    return TrackBox(2, f"animal {video}", 3 * frame, 10, 3 * frame + 20, 50), side


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with FrameStoreWriter(tmp_path / "frames", objects=True) as writer:
        for video in range(3):
            frames = [
                Frame(
                    jpeg(shifted(picture(video), frame)),
                    frame / FPS,
                    7 * frame,
                    objects=boxes_of(video, frame),
                    labels=b"PNG" if frame == 4 else b"",
                )
                for frame in range(N)
            ]
            writer.add(VideoRow(f"v{video}", f"v{video}.mp4", sha256=f"hash {video}", fps=FPS), frames)
    return tmp_path / "frames"


def index(folder: Path, draws: dict) -> int:
    (folder / "params.yaml").write_text(json.dumps({"index": {"c": {"draws": draws}}}))
    places = ["--frames", folder / "frames", "--index", folder / "i" / "c", "--leakage", folder / "i" / "l.json"]
    return main(STAGE, run, ["--corpus", "c", "--params", str(folder / "params.yaml"), *map(str, places)])


BINS = ("track_frames", "frame_objects")


def test_the_index_tells_each_frames_objects(store: Path) -> None:
    draws = {
        "frame": {"offsets_s": [0]},
        "object_frame": {"offsets_s": [0], "shared": "track"},
        "object_pair": {"offsets_s": [0, 1.5], "shared": "track"},
        "boats": {"offsets_s": [0, 1.5], "shared": "category"},
    }
    assert index(store.parent, draws) == 0
    opened = ClipIndex(store.parent / "i" / "c")
    objects = opened.objects
    assert objects is not None and len(objects) == 2 * 2 * N
    assert objects.categories == ("animal 0", "animal 2", "boat")
    for row in range(3 * N):
        video, frame = divmod(row, N)
        found, expected = objects.of(row), boxes_of(video, frame)
        assert found.track.tolist() == [box.track for box in expected]
        assert [objects.categories[k] for k in found.category] == [box.category for box in expected]
        np.testing.assert_array_equal(found.box.reshape(-1, 4), np.array([box[2:] for box in expected]).reshape(-1, 4))
        if frame == 4 and video != 1:
            assert found.labels is not None and FrameStore(store).read(*found.labels) == b"PNG"
        else:
            assert found.labels is None
    assert sorted({row // N for row in opened.draw("object_frame")[:, 0].tolist()}) == [0, 2]
    assert opened.draw("object_pair").tolist() == [[v * N + k, v * N + k + 9] for v in (0, 2) for k in range(3)]
    assert opened.draw("boats").tolist() == opened.draw("object_pair").tolist()
    stats = json.loads((store.parent / "i" / "c" / "stats.json").read_text())["objects"]
    bins = {name: [(bar["from"], bar["count"]) for bar in stats.pop(name) if bar["count"]] for name in BINS}
    assert bins == {"track_frames": [(5, 4), (10, 2)], "frame_objects": [(0, 12), (2, 24)]}
    assert stats == {
        "boxes": 48, "frames": 24, "tracks": 6, "label_maps": 2, "categories": 3,
        "tracks_of_category": {"boat": 4, "animal 0": 1, "animal 2": 1},
    }  # fmt: skip


def test_one_clear_line_where_nothing_is_shared(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FrameStoreWriter(store.parent / "bare" / "frames") as writer:
        writer.add(VideoRow("a", "a.mp4"), [Frame(jpeg(picture(1)), 0.0, 0)])
    assert index(store.parent / "bare", {"d": {"offsets_s": [0], "shared": "track"}}) == 2
    assert "draw 'd' wants frames that share a track, and the frame store knows of no objects" in capfd.readouterr().err
    with FrameStoreWriter(store.parent / "empty" / "frames", objects=True) as writer:
        writer.add(VideoRow("a", "a.mp4"), [Frame(jpeg(picture(1)), 0.0, 0)])
    assert index(store.parent / "empty", {"d": {"offsets_s": [0], "shared": "category"}}) == 2
    assert "none of its 1 rows does; 0 objects are known" in capfd.readouterr().err


def test_a_sheet_of_a_shared_draw_shows_the_box(store: Path) -> None:
    assert index(store.parent, {"p": {"offsets_s": [0, 0.5]}}) == 0
    plain = (store.parent / "i" / "c" / "contact_sheet.jpg").read_bytes()
    assert index(store.parent, {"p": {"offsets_s": [0, 0.5], "shared": "track"}}) == 0
    assert plain != (store.parent / "i" / "c" / "contact_sheet.jpg").read_bytes()


def test_an_index_of_other_length_is_refused(tmp_path: Path, store: Path) -> None:
    assert index(store.parent, {"frame": {"offsets_s": [0]}}) == 0
    place = store.parent / "i" / "c"
    np.save(place / "objects" / "track.npy", np.zeros(3, np.int32))
    objects = ClipIndex(place).objects
    assert objects is not None
    with pytest.raises(StageError, match=r"index.json says int32 \(48,\)"):
        objects.of(0)
    columns: dict[str, Any] = {"start": [0, 2], "track": [1], "category": [0], "box": np.zeros((1, 4))}
    with pytest.raises(ValueError, match="must rise from 0 to 1"):
        write_index(tmp_path / "w", _one_frame(), {"d": [[0]]}, objects=(columns, ["a"]))


def _one_frame() -> dict[str, list[float]]:
    names = ("video", "pts_s", "shard", "offset", "size", "height", "width", "segment", "split")
    return {name: [0] for name in names}


def test_objects_of_an_unknown_frame_are_refused(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FrameStore(store)
    table = opened.objects
    assert table is not None
    monkeypatch.setitem(vars(opened), "objects", table.set_column(1, "frame", [[1] * len(table)]))
    with pytest.raises(StageError, match="objects of a frame that the store does not hold"):
        read_table(opened)
    monkeypatch.setitem(vars(opened), "objects", table.take(list(range(len(table)))[::-1]))
    with pytest.raises(StageError, match="objects are not ordered by frame and track"):
        read_table(opened)


frame_objects = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=4, unique_by=lambda pair: pair[0])


@settings(max_examples=150, deadline=None)
@given(st.lists(frame_objects, min_size=1, max_size=9), st.data())
def test_shares_equals_the_naive_loop(frames: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 4))
    row = st.lists(st.integers(0, len(frames) - 1), min_size=k, max_size=k)
    rows = np.array(data.draw(st.lists(row, max_size=12)), np.int64).reshape(-1, k)
    flat = [pair for objects in frames for pair in sorted(objects)]
    track, category = np.array(flat, np.int32).reshape(-1, 2).T
    start = np.cumsum([0, *map(len, frames)])
    table = ObjectTable(start, track, category, np.zeros((len(flat), 4), np.float32), None, ["a", "b", "c"])
    for part, by in enumerate(("track", "category")):
        expected = [bool(set.intersection(*({pair[part] for pair in frames[f]} for f in one))) for one in rows.tolist()]
        assert table.shares(rows, by).tolist() == expected  # type: ignore[arg-type]


def test_rows_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_objects, "ROWS_AT_ONCE", 3)
    start = np.arange(11)
    track = np.arange(10, dtype=np.int32) // 4
    table = ObjectTable(start, track, np.zeros(10, np.int32), np.zeros((10, 4), np.float32), None, ["a"])
    rows = np.stack([np.arange(9), np.arange(9) + 1], axis=1)
    assert table.shares(rows, "track").tolist() == [True, True, True, False, True, True, True, False, True]


def test_ranges_keep_rows_that_share() -> None:
    table = make_table([[(np.arange(40) / 4).tolist()]])
    track = np.arange(40, dtype=np.int32) // 10
    objects = ObjectTable(np.arange(41), track, track * 0, np.zeros((40, 4), np.float32), None, ["a"])
    object.__setattr__(table, "objects", objects)
    draws = {"d": {"ranges_s": [[0.25, 1.0]], "shared": "track"}}
    given_params = params(draws)
    rows = build_draw("d", given_params.draws["d"], table, np.ones(40, bool), given_params)
    assert len(rows) > 20 and (track[rows[:, 0]] == track[rows[:, 1]]).all()
