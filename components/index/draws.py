"""Which frames may be drawn together: near the wanted times, never across a cut or the end of a video.

All anchors of a corpus are searched at once. Times become whole microseconds, and each segment is moved behind the one
before it with a gap that no offset can bridge, so that one binary search over one sorted column serves every segment.
"""

from __future__ import annotations

import hashlib

import numpy as np

from components.common.errors import StageError
from components.index.config import ClipDraw, IndexParams, OffsetsDraw, RangesDraw, SharingDraw, SpanDraw
from components.index.objects import Shared
from components.index.subset import take_subset
from components.index.table import US_PER_S, FrameTable, ticks

Draw = OffsetsDraw | ClipDraw | RangesDraw | SpanDraw


def build_draw(name: str, draw: Draw, table: FrameTable, usable: np.ndarray, params: IndexParams) -> np.ndarray:
    """All rows of one draw.

    Args:
        name: the draw's name, part of the seed.
        draw: the wanted times.
        table: F frames.
        usable: bool (F,), frames whose video may be drawn from.
        params: tolerance and thinning.

    Returns:
        int64 (N, k), k distinct frames of one segment each, rising in time; rows ordered by their anchor. Of spans
        int64 (N, 2), the first and the last frame.

    Raises:
        StageError: when no row is left; it says why.
    """
    anchors = np.flatnonzero(usable)
    if params.anchor_every_s is not None:
        anchors = _one_per_period(anchors, table, params.anchor_every_s)
    if isinstance(draw, SpanDraw):
        rows = spans(table, usable, draw)
    elif isinstance(draw, RangesDraw):
        chance = uniform(table, params.seed, f"{name}/ranges", len(draw.ranges_s))
        rows = from_ranges(table, anchors, draw, chance)
    else:
        rows = at_offsets(table, anchors, draw.offsets_s, params.tolerance_s)
    if isinstance(draw, SharingDraw) and draw.shared is not None and len(rows):
        rows = _sharing(name, rows, table, draw.shared)
    if isinstance(draw, OffsetsDraw) and draw.subset is not None and len(rows):
        chance = uniform(table, params.seed, f"{name}/subset", 1)[:, 0]
        rows = take_subset(rows, table, draw.subset, chance)
    if not len(rows):
        do = "extract at a higher rate, or ask for times that are multiples of the frame spacing"
        do = "lower min_s or min_frames" if isinstance(draw, SpanDraw) else do
        raise StageError(_why_empty(name, draw, table, params), where="index.draws", do=do)
    if params.max_anchors is not None and len(rows) > params.max_anchors:
        chance = uniform(table, params.seed, f"{name}/anchors", 1)[rows[:, draw.anchor], 0]
        rows = rows[np.sort(np.argsort(chance, kind="stable")[: params.max_anchors])]
    return rows


def _sharing(name: str, rows: np.ndarray, table: FrameTable, by: Shared) -> np.ndarray:
    """The rows in whose every frame there is one track or category; raises StageError when there are none."""
    wants = f"draw '{name}' wants frames that share a {by}"
    if table.objects is None:
        do = "name the folder of tracks in extract_frames.<corpus>.tracks"
        raise StageError(f"{wants}, and the frame store knows of no objects", where="index.draws", do=do)
    kept = rows[table.objects.shares(rows, by)]
    if not len(kept):
        what = f"{wants}, and none of its {len(rows)} rows does; {len(table.objects)} objects are known"
        raise StageError(what, where="index.draws", do="ask for frames closer together, or add annotated videos")
    return kept


def at_offsets(table: FrameTable, anchors: np.ndarray, offsets_s: tuple[float, ...], tolerance_s: float) -> np.ndarray:
    """For each anchor the frame nearest to each wanted time, where all lie within the tolerance: int64 (N, k).

    Of two frames equally near, the earlier is taken.
    """
    tolerance = round(tolerance_s * US_PER_S)
    line = _Line(table, reach=max(map(abs, offsets_s)) + tolerance_s)
    rows = np.empty((len(anchors), len(offsets_s)), dtype=np.int64)
    good = np.ones(len(anchors), dtype=bool)
    for column, offset_s in enumerate(offsets_s):
        wanted = line.time[anchors] + round(offset_s * US_PER_S)
        rows[:, column] = anchors if offset_s == 0 else line.nearest(wanted)
        good &= np.abs(line.time[rows[:, column]] - wanted) <= tolerance
    good &= (np.diff(rows, axis=1) > 0).all(axis=1)
    return rows[good]


def from_ranges(table: FrameTable, anchors: np.ndarray, draw: RangesDraw, chance: np.ndarray) -> np.ndarray:
    """For each anchor one frame of each range of times, ends included, uniform among the frames there: int64 (N, k+1).

    Args:
        chance: float (F, k) in [0, 1): which of the frames is taken, by anchor and range.
    """
    line = _Line(table, reach=max(abs(end) for ends in draw.ranges_s for end in ends))
    rows = np.empty((len(anchors), len(draw.ranges_s) + 1), dtype=np.int64)
    rows[:, draw.anchor] = anchors
    good = np.ones(len(anchors), dtype=bool)
    for number, (low_s, high_s) in enumerate(draw.ranges_s):
        first = np.searchsorted(line.time, line.time[anchors] + round(low_s * US_PER_S), side="left")
        end = np.searchsorted(line.time, line.time[anchors] + round(high_s * US_PER_S), side="right")
        good &= end > first
        rows[:, number + (number >= draw.anchor)] = first + (chance[anchors, number] * (end - first)).astype(np.int64)
    return rows[good]


def spans(table: FrameTable, usable: np.ndarray, draw: SpanDraw) -> np.ndarray:
    """First and last frame of every stretch that is long enough: int64 (N, 2).

    A piece of a long stretch holds the frames of one period of `max_s` seconds, counted from the stretch's start.
    """
    pts = ticks(table.columns["pts_s"])
    new = np.diff(table.columns["video"] if draw.span == "video" else table.segment, prepend=-1) != 0
    if draw.max_s is not None:
        start = np.flatnonzero(new)
        since = pts - np.repeat(pts[start], np.diff(np.append(start, len(table))))
        new |= np.diff(since // round(draw.max_s * US_PER_S), prepend=0) != 0
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(table)) - 1
    long = (pts[last] - pts[first] >= round(draw.min_s * US_PER_S)) & (last - first + 1 >= draw.min_frames)
    return np.stack([first, last], axis=1)[long & usable[first]]


def uniform(table: FrameTable, seed: int, purpose: str, width: int) -> np.ndarray:
    """float64 (F, width) in [0, 1), from one generator a video: adding a video changes no value of another."""
    start = np.flatnonzero(np.diff(table.columns["video"], prepend=-1))
    count = np.diff(np.append(start, len(table)))
    values = [
        _generator(seed, purpose, table.identity[video]).random((n, width))
        for video, n in zip(table.columns["video"][start].tolist(), count.tolist(), strict=True)
    ]
    return np.concatenate(values)


def _generator(seed: int, purpose: str, identity: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{purpose}/{identity}".encode()).digest()
    return np.random.default_rng((seed, int.from_bytes(digest[:8], "little")))


class _Line:
    """All segments on one line of time, in microseconds, with gaps wider than `reach` seconds between them."""

    def __init__(self, table: FrameTable, reach: float) -> None:
        pts = ticks(table.columns["pts_s"])
        first, last = pts[table.segment_start], pts[table.segment_end - 1]
        step = last - first + 2 * round(reach * US_PER_S) + US_PER_S
        base = np.cumsum(step) - step
        self.time = pts + np.repeat(base - first, table.segment_end - table.segment_start)

    def nearest(self, wanted: np.ndarray) -> np.ndarray:
        """Frame nearest to each wanted time, the earlier of two equally near."""
        after = np.searchsorted(self.time, wanted).clip(max=len(self.time) - 1)
        before = np.maximum(after - 1, 0)
        return np.where(self.time[after] - wanted < wanted - self.time[before], after, before)


def _one_per_period(anchors: np.ndarray, table: FrameTable, every_s: float) -> np.ndarray:
    """The first anchor of every period of `every_s` seconds, counted from the start of its segment."""
    pts, segment = ticks(table.columns["pts_s"]), table.segment[anchors]
    period = (pts[anchors] - pts[table.segment_start[segment]]) // round(every_s * US_PER_S)
    new = np.ones(len(anchors), dtype=bool)
    new[1:] = (np.diff(segment) != 0) | (np.diff(period) != 0)
    return anchors[new]


def _why_empty(name: str, draw: Draw, table: FrameTable, params: IndexParams) -> str:
    pts, same = table.columns["pts_s"], np.diff(table.segment) == 0
    if isinstance(draw, SpanDraw):
        wanted = f"{draw.span} of {draw.min_s:g} s and {draw.min_frames} frames or more"
    elif isinstance(draw, RangesDraw):
        wanted = f"frames within {[list(ends) for ends in draw.ranges_s]} s of an anchor"
    else:
        times = ", ".join(f"{offset:g}" for offset in draw.offsets_s)
        wanted = f"{len(draw.offsets_s)} frames at [{times}] s within {params.tolerance_s:g} s"
    if not same.any():
        return f"draw '{name}' is empty, no {wanted}; no cut-free stretch has two frames"
    gap_s = float(np.median(np.diff(pts)[same]))
    longest_s = float((pts[table.segment_end - 1] - pts[table.segment_start]).max())
    have = f"frames are {gap_s:.3g} s apart and the longest stretch without a cut is {longest_s:.3g} s"
    return f"draw '{name}' is empty, no {wanted}; {have}"
