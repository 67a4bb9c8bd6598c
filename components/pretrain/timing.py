"""Which frames are drawn together, anew each epoch: T-CoRe's sandwich, TimeT's clips, pairs some seconds apart.

Rows of the index are frames in the order of time, those of one segment or video next to each other. So a span is its
first and its last row, and a draw costs a few binary searches in the mapped column of times, however long the span is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.pretrain.plan import Consecutive, RangeTimes, Regular, Sandwich, Timing, UniformTimes

SLACK_S = 1e-6  # times are sums of decimal fractions; the index counts microseconds too
Columns = Mapping[str, np.ndarray]


def draw_frames(timing: Timing, row: np.ndarray, columns: Columns, rng: np.random.Generator) -> np.ndarray:
    """Draw the frames of one sample: int64 (timing.n_frames,), rising rows of the index.

    Args:
        timing: what to draw.
        row: a row of the draw: first and last frame of a span, or a pair for `RangeTimes`.
        columns: the index's `pts_s` and `segment`.
        rng: source of the choice.
    """
    first, last = int(row[0]), int(row[1])
    match timing:
        case Sandwich():
            return first + sandwich(timing, last - first + 1, rng)
        case UniformTimes(n_frames):
            n = last - first + 1
            return first + np.sort(rng.choice(n, n_frames, replace=n < n_frames))
        case Consecutive(n_frames, gap_s):
            if gap_s is None:
                return first + int(rng.integers(last - first + 2 - n_frames)) + np.arange(n_frames)
            return first + spaced(columns["pts_s"][first : last + 1], n_frames, gap_s, rng)
        case Regular(n_frames, step_s):
            times = columns["pts_s"][first : last + 1]
            length_s = float(times[-1] - times[0])
            return first + spaced(times, n_frames, min(step_s, length_s / n_frames), rng)
        case RangeTimes():
            return np.array([first, within(timing, first, columns, rng)])


def sandwich(timing: Sandwich, n: int, rng: np.random.Generator) -> np.ndarray:
    """Past, current and future frame of a span of n frames, as numbers from 0: T-CoRe's loader, line by line.

    For n = 20 the current frame is 6 to 13 and the others lie 3 to 5 frames from it, each by a draw of its own.
    """
    start, end = (int(share * n) for share in timing.current)
    if start < end:
        current = int(rng.integers(start, end))
        past = [current - int(share * n) for share in reversed(timing.past)]
        future = [current + int(timing.future[0] * n), min(current + int(timing.future[1] * n), n - 1)]
        if past[0] < past[1] <= current <= future[0] < future[1]:
            return np.array([rng.integers(past[0], past[1] + 1), current, rng.integers(future[0], future[1] + 1)])
    return np.repeat(rng.integers(n), 3)


def spaced(times: np.ndarray, n_frames: int, step_s: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `n_frames` distinct frames about `step_s` apart, from a random start that leaves room for all.

    Args:
        times: seconds of a span's frames, rising; at least `n_frames` of them.
    """
    latest = float(times[-1]) - (n_frames - 1) * step_s + SLACK_S
    starts = int(np.searchsorted(times, latest, side="right"))
    start = int(rng.integers(max(1, starts)))
    wanted = times[start] + step_s * np.arange(n_frames)
    after = np.searchsorted(times, wanted).clip(max=len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(times[after] - wanted < wanted - times[before], after, before)
    place = np.arange(n_frames)  # a step below the frames' spacing would take a frame twice: take its neighbour
    return np.minimum(np.maximum.accumulate(nearest - place) + place, len(times) - n_frames + place)


def within(timing: RangeTimes, anchor: int, columns: Columns, rng: np.random.Generator) -> int:
    """A frame `low_s` to `high_s` after the anchor in its segment, uniform among those there."""
    segment = columns["segment"]
    end = anchor + int(np.searchsorted(segment[anchor:], segment[anchor], side="right"))
    times = columns["pts_s"][anchor:end]
    low = int(np.searchsorted(times, times[0] + timing.low_s - SLACK_S, side="left"))
    high = int(np.searchsorted(times, times[0] + timing.high_s + SLACK_S, side="right"))
    return anchor + int(rng.integers(low, high))


def too_short(timing: Timing, rows: np.ndarray, pts_s: np.ndarray) -> np.ndarray:
    """Which spans (N, 2) cannot hold the frames of a timing: bool (N,)."""
    frames = rows[:, 1] - rows[:, 0] + 1
    if isinstance(timing, Consecutive) and timing.gap_s is not None:
        length_s = pts_s[rows[:, 1]] - pts_s[rows[:, 0]]
        return (frames < timing.n_frames) | (length_s + SLACK_S < (timing.n_frames - 1) * timing.gap_s)
    return frames < (timing.n_frames if isinstance(timing, Consecutive | Regular) else 1)
