"""Draws against a naive double loop, and what makes them empty."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import StageError
from components.index.draws import at_offsets, build_draw
from components.index.table import FrameTable

from .conftest import make_table, params

US = 1_000_000


def everything(table: FrameTable) -> np.ndarray:
    return np.ones(len(table), dtype=bool)


def build(draw: dict, table: FrameTable, usable: np.ndarray | None = None, **other: object) -> np.ndarray:
    settings_ = params({"d": draw}, **other)
    return build_draw("d", settings_.draws["d"], table, everything(table) if usable is None else usable, settings_)


def naive(table: FrameTable, offsets_s: tuple[float, ...], tolerance_s: float) -> list[list[int]]:
    """For every anchor and offset, look at every frame of the video up to the next cut."""
    time_us = [round(pts * US) for pts in table.columns["pts_s"]]
    rows = []
    for anchor in range(len(table)):
        stretch = [frame for frame in range(len(table)) if table.segment[frame] == table.segment[anchor]]
        row = []
        for offset_s in offsets_s:
            wanted = time_us[anchor] + round(offset_s * US)
            nearest = min(stretch, key=lambda frame: (abs(time_us[frame] - wanted), frame))
            if abs(time_us[nearest] - wanted) <= round(tolerance_s * US):
                row.append(nearest)
        if len(row) == len(offsets_s) and len(set(row)) == len(row):
            rows.append(row)
    return rows


def rising(steps: list[int]) -> list[float]:
    return (np.cumsum(steps) / 24).tolist()


stretches = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(rising)
corpora = st.lists(st.lists(stretches, min_size=1, max_size=3), min_size=1, max_size=3)
offset_lists = st.sets(st.integers(-20, 20).filter(bool), max_size=3).map(
    lambda steps: tuple(sorted({0.0, *(step / 16 for step in steps)}))
)


def restart(videos: list[list[list[float]]]) -> list[list[list[float]]]:
    """Each stretch of a video begins where the one before ended."""
    for segments in videos:
        end = 0.0
        for number, times in enumerate(segments):
            segments[number] = [end + pts for pts in times]
            end = segments[number][-1]
    return videos


@settings(max_examples=150, deadline=None)
@given(corpora, offset_lists, st.sampled_from([0.0, 0.01, 0.03, 0.2]))
def test_offsets_equal_the_naive_double_loop(
    videos: list[list[list[float]]], offsets_s: tuple[float, ...], tolerance_s: float
) -> None:
    table = make_table(restart(videos))
    rows = at_offsets(table, np.arange(len(table)), offsets_s, tolerance_s)
    assert rows.tolist() == naive(table, offsets_s, tolerance_s)


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(0, 5))
def test_ranges_hold_and_no_possible_anchor_is_lost(videos: list[list[list[float]]], seed: int) -> None:
    table = make_table(restart(videos))
    pts, segment = table.columns["pts_s"], table.segment
    ranges = ((-0.75, -0.25), (0.25, 0.5))

    def candidates(anchor: int, low: float, high: float) -> list[int]:
        gaps = [(f, round((pts[f] - pts[anchor]) * US)) for f in range(len(table)) if segment[f] == segment[anchor]]
        return [f for f, gap in gaps if round(low * US) <= gap <= round(high * US)]

    expected = [a for a in range(len(table)) if all(candidates(a, *ends) for ends in ranges)]
    if not expected:
        with pytest.raises(StageError, match="draw 'd' is empty"):
            build({"ranges_s": ranges}, table, seed=seed)
        return
    rows = build({"ranges_s": ranges}, table, seed=seed)
    assert rows[:, 1].tolist() == expected
    for past, anchor, future in rows.tolist():
        assert past in candidates(anchor, *ranges[0])
        assert future in candidates(anchor, *ranges[1])


def test_a_range_is_drawn_uniformly_and_repeats_with_the_seed() -> None:
    table = make_table([[(np.arange(4000) / 8).tolist()]])
    draw = {"ranges_s": [[0.25, 1.0]]}
    rows = build(draw, table)
    counts = np.bincount(rows[:, 1] - rows[:, 0])
    assert counts[:2].sum() == 0
    assert len(counts) == 9
    expected = len(rows) / 7
    assert (abs(counts[2:] - expected) < 5 * expected**0.5).all()
    np.testing.assert_array_equal(rows, build(draw, table))
    assert (rows != build(draw, table, seed=1)).any()


@settings(max_examples=100, deadline=None)
@given(corpora, st.sampled_from(["segment", "video"]), st.integers(0, 12), st.integers(1, 4), st.integers(0, 9))
def test_spans_are_the_stretches_that_are_long_enough(
    videos: list[list[list[float]]], span: str, min_steps: int, min_frames: int, piece_steps: int
) -> None:
    table = make_table(restart(videos))
    segments = [segment for video in videos for segment in video]
    stretches = segments if span == "segment" else [[pts for segment in video for pts in segment] for video in videos]
    expected, begin = [], 0
    for times in stretches:
        pieces: dict[int, list[int]] = {}
        for number, pts in enumerate(times):
            since = round(pts * US) - round(times[0] * US)
            pieces.setdefault(since // round((min_steps + piece_steps) / 24 * US) if piece_steps else 0, []).append(
                number
            )
        for piece in pieces.values():
            length = round(times[piece[-1]] * US) - round(times[piece[0]] * US)
            if length >= round(min_steps / 24 * US) and len(piece) >= min_frames:
                expected.append([begin + piece[0], begin + piece[-1]])
        begin += len(times)
    draw = {"span": span, "min_s": min_steps / 24, "min_frames": min_frames}
    draw |= {"max_s": (min_steps + piece_steps) / 24} if piece_steps else {}
    if expected:
        assert build(draw, table).tolist() == expected
    else:
        with pytest.raises(StageError, match=r"draw 'd' is empty, no .* or more"):
            build(draw, table)


def test_spans_leave_out_unusable_videos_and_cross_cuts_only_when_asked() -> None:
    table = make_table([[[0.0, 0.5, 1.0], [1.5, 2.0]]] * 3)
    usable = table.columns["video"] != 1
    assert build({"span": "segment"}, table, usable).tolist() == [[0, 2], [3, 4], [10, 12], [13, 14]]
    assert build({"span": "video"}, table, usable).tolist() == [[0, 4], [10, 14]]
    assert build({"span": "segment", "min_s": 1}, table, usable, max_anchors=1).tolist() in ([[0, 2]], [[10, 12]])


def test_another_video_changes_nothing_for_the_others() -> None:
    video = [(np.arange(300) / 6).tolist()]
    alone = make_table([video, video], ["a", "c"])
    joined = make_table([video, video, video], ["a", "b", "c"])
    moved = np.where(np.arange(600) < 300, np.arange(600), np.arange(600) + 300)  # where a's and c's frames went
    for draw in ({"ranges_s": [[-1, -0.5], [0.5, 1]]}, {"offsets_s": [0, 0.5]}):
        rows = build(draw, joined)
        kept = rows[joined.columns["video"][rows[:, 0]] != 1]
        np.testing.assert_array_equal(kept, moved[build(draw, alone)])


def test_a_pair_of_frames_24_per_second_half_a_second_apart() -> None:
    table = make_table([[(np.arange(48) / 24).tolist()]])
    rows = build({"offsets_s": [0, 0.5]}, table, tolerance_s=0)
    assert rows.tolist() == [[i, i + 12] for i in range(36)]


def test_a_clip_is_equally_spaced() -> None:
    table = make_table([[(np.arange(40) / 6).tolist()]])
    rows = build({"n_frames": 4, "gap_s": 0.5}, table)
    assert rows.tolist() == [[i, i + 3, i + 6, i + 9] for i in range(31)]


def test_frames_of_unusable_videos_are_not_drawn() -> None:
    table = make_table([[(np.arange(12) / 6).tolist()]] * 3)
    usable = table.columns["video"] != 1
    rows = build({"offsets_s": [0, 0.5]}, table, usable)
    assert sorted(set(table.columns["video"][rows].ravel().tolist())) == [0, 2]
    assert len(rows) == 18


def test_at_most_one_anchor_per_period() -> None:
    table = make_table([[(np.arange(13) / 6).tolist(), (10 + np.arange(5) / 6).tolist()]])
    assert build({"offsets_s": [0]}, table, anchor_every_s=1.0).ravel().tolist() == [0, 6, 12, 13]


def test_max_anchors_takes_a_seeded_subset_in_order() -> None:
    table = make_table([[(np.arange(600) / 6).tolist()]] * 3)
    whole = {tuple(row) for row in build({"offsets_s": [0, 0.5]}, table).tolist()}
    some = build({"offsets_s": [0, 0.5]}, table, max_anchors=100)
    assert len(some) == 100
    assert {tuple(row) for row in some.tolist()} < whole
    assert (np.diff(some[:, 0]) > 0).all()
    assert len(set(table.columns["video"][some[:, 0]].tolist())) == 3
    assert some.tolist() != build({"offsets_s": [0, 0.5]}, table, max_anchors=100, seed=1).tolist()


def test_an_empty_draw_says_why() -> None:
    table = make_table([[[0.0, 1.0, 2.0, 3.0]]])
    with pytest.raises(
        StageError, match=r"draw 'd' is empty, no 2 frames at \[0, 0.5\] s within 0.05 s; frames are 1 s"
    ):
        build({"offsets_s": [0, 0.5]}, table)
    with pytest.raises(StageError, match=r"longest stretch without a cut is 3 s"):
        build({"n_frames": 5, "gap_s": 1}, table)
    with pytest.raises(StageError, match=r"no frames within \[\[0.2, 0.7\]\] s of an anchor"):
        build({"ranges_s": [[0.2, 0.7]]}, table)
    with pytest.raises(StageError, match="no cut-free stretch has two frames"):
        build({"offsets_s": [0, 1]}, make_table([[[0.0], [1.0]], [[0.0]]]))


def test_a_single_frame_is_a_draw() -> None:
    assert build({"offsets_s": [0]}, make_table([[[0.0]]])).tolist() == [[0]]


def test_at_least_200_000_frames_a_second() -> None:
    table = make_table([[(np.arange(300) / 6).tolist()]] * 1000)
    best = min(_seconds(table) for _ in range(3))
    print(f"clips of 4: {len(table) / best:,.0f} frames/s")
    assert len(table) / best > 200_000


def _seconds(table: FrameTable) -> float:
    start = time.perf_counter()
    build({"n_frames": 4, "gap_s": 0.5}, table)
    return time.perf_counter() - start
