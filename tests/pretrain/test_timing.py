"""Frames drawn from spans: the invariants of the papers, and every draw inside its span."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pretrain.plan import Consecutive, RangeTimes, Regular, Sandwich, Timing, UniformTimes, ViewPlan
from components.pretrain.timing import draw_frames, sandwich, too_short


def columns(*segments: list[float]) -> dict[str, np.ndarray]:
    """Times and segments as the index keeps them."""
    return {
        "pts_s": np.concatenate([np.asarray(times, float) for times in segments]),
        "segment": np.repeat(np.arange(len(segments), dtype=np.int32), [len(times) for times in segments]),
    }


def many(timing: Timing, row: tuple[int, int], table: dict[str, np.ndarray], n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_frames(timing, np.array(row), table, rng) for _ in range(n)])


def even(n: int, gap_s: float = 0.5, start_s: float = 0.0) -> list[float]:
    return (start_s + gap_s * np.arange(n)).tolist()


def test_the_sandwich_of_20_frames() -> None:
    """T-CoRe: the current frame is 6 to 13, gaps are 3 to 5 frames, each side's by a draw of its own."""
    past, current, future = many(Sandwich(), (0, 19), columns(even(20)), 4000).T
    assert set(current.tolist()) == set(range(6, 14))
    assert set((current - past).tolist()) == {3, 4, 5} == set((future - current).tolist())
    assert abs(np.corrcoef(current - past, future - current)[0, 1]) < 0.06
    for values in (current, current - past, future - current):
        _, counts = np.unique(values, return_counts=True)
        assert counts.min() > 0.8 * counts.mean()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31))
def test_a_sandwich_lies_in_its_span_and_is_one_frame_where_it_cannot_be(n: int, seed: int) -> None:
    past, current, future = sandwich(Sandwich(), n, np.random.default_rng(seed)).tolist()
    assert 0 <= past <= current <= future < n
    if n in (1, 2, 3, 7):
        assert past == current == future
    elif n > 7:  # up to 6 frames, a gap may be 0
        assert past < current < future
        assert int(0.15 * n) <= current - past <= int(0.25 * n)


def test_uniform_times_are_distinct_and_sorted_and_repeat_only_in_short_spans() -> None:
    found = many(UniformTimes(4), (10, 29), columns(even(40)))
    assert (np.diff(found, axis=1) > 0).all() and found.min() == 10 and found.max() == 29
    counts = np.bincount(found.ravel())[10:]
    assert (np.abs(counts - 80) < 45).all()  # 1600 draws over 20 frames
    short = many(UniformTimes(4), (10, 12), columns(even(40)))
    assert (np.diff(short, axis=1) >= 0).all() and set(short.ravel().tolist()) == {10, 11, 12}


def test_consecutive_frames_are_neighbours_or_a_gap_apart() -> None:
    found = many(Consecutive(3), (5, 9), columns(even(12)))
    assert (np.diff(found, axis=1) == 1).all() and set(found[:, 0].tolist()) == {5, 6, 7}
    table = columns(even(30, 0.1))
    spaced = many(Consecutive(3, gap_s=0.3), (0, 29), table)
    assert (np.diff(spaced, axis=1) == 3).all() and set(spaced[:, 0].tolist()) == set(range(24))


def test_gaps_are_in_seconds_where_frames_are_uneven() -> None:
    table = columns([0.0, 0.1, 0.5, 0.9, 1.0, 1.6, 2.0, 2.05, 3.0])
    found = {tuple(row) for row in many(Consecutive(3, gap_s=0.5), (0, 8), table).tolist()}
    assert found == {(0, 2, 4), (1, 2, 4), (2, 4, 5), (3, 5, 6), (4, 5, 6), (5, 7, 8), (6, 7, 8)}


def test_a_regular_step_shrinks_to_a_span_that_is_too_short() -> None:
    table = columns(even(30, 0.1))
    assert (np.diff(many(Regular(4, step_s=0.5), (0, 29), table), axis=1) == 5).all()
    shrunk = many(Regular(4, step_s=5.0), (0, 29), table)  # 2.9 s / 4 = 0.725 s
    assert (np.diff(shrunk, axis=1) >= 7).all() and (np.diff(shrunk, axis=1) <= 8).all()
    assert many(Regular(4, step_s=5.0), (0, 3), table)[0].tolist() == [0, 1, 2, 3]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 2.0), min_size=4, max_size=30),
    timing=st.sampled_from([Sandwich(), UniformTimes(4), Consecutive(4), Consecutive(2, 0.3), Regular(4, 0.7)]),
    before=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_frames_rise_within_the_span_and_repeat_with_the_seed(
    steps: list[float], timing: Timing, before: int, seed: int
) -> None:
    table = columns(even(before + 1), np.cumsum(steps).tolist(), even(5))
    first, last = before + 1, before + len(steps)
    rows = np.array([[first, last]])
    if too_short(timing, rows, table["pts_s"])[0]:
        assert isinstance(timing, Consecutive) and timing.gap_s is not None
        return
    one, two = (draw_frames(timing, rows[0], table, np.random.default_rng(seed)) for _ in range(2))
    assert one.tolist() == two.tolist() and len(one) == timing.n_frames
    assert one.min() >= first and one.max() <= last and (np.diff(one) >= 0).all()
    if not isinstance(timing, Sandwich):
        assert (np.diff(one) > 0).all()


def test_the_second_frame_of_a_pair_is_drawn_from_the_range_in_the_anchors_segment() -> None:
    table = columns(even(3), even(10), even(10))
    found = many(RangeTimes(1.0, 2.0), (5, 8), table)
    assert set(found[:, 0].tolist()) == {5} and set(found[:, 1].tolist()) == {7, 8, 9}
    assert set(many(RangeTimes(1.0, 4.0), (9, 12), table)[:, 1].tolist()) == {11, 12}  # 13 lies behind the cut


def test_spans_that_hold_too_few_frames_are_told() -> None:
    rows, pts_s = np.array([[0, 3], [4, 5], [6, 9]]), np.array([*even(4), *even(2), *even(4, 0.1)])
    assert too_short(Consecutive(3), rows, pts_s).tolist() == [False, True, False]
    assert too_short(Consecutive(3, gap_s=0.75), rows, pts_s).tolist() == [False, True, True]
    assert too_short(Regular(4, 9.0), rows, pts_s).tolist() == [False, True, False]
    assert not too_short(UniformTimes(9), rows, pts_s).any() and not too_short(Sandwich(), rows, pts_s).any()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sandwich(past=(0.2, 0.4)),
        lambda: Sandwich(future=(0.15, 0.35)),
        lambda: Sandwich(current=(0.7, 0.3)),
        lambda: RangeTimes(0.0, 1.0),
        lambda: RangeTimes(2.0, 1.0),
        lambda: ViewPlan("span", 4, (), timing=Sandwich()),
    ],
)
def test_timings_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"outside the span|must rise|the timing takes 3 frames"):
        wrong()
