"""Cross-Time's clip subsets against its builder, written out; and splits of an exact size."""

from __future__ import annotations

import numpy as np
import pytest

from components.common.clip_index import TRAIN, VAL
from components.common.errors import StageError
from components.index.config import OffsetsDraw, Subset
from components.index.draws import build_draw
from components.index.objects import ObjectTable
from components.index.split import split_exactly
from tests.index.conftest import make_table, params


def seconds(n: int) -> list[list[float]]:
    """One frame a second."""
    return [[float(at) for at in range(n)]]


def objects(present: dict[int, set[int]], n_frames: int) -> ObjectTable:
    """Track numbers by frame."""
    per_frame = [sorted(present.get(frame, set())) for frame in range(n_frames)]
    track = np.array([t for tracks in per_frame for t in tracks], np.int32)
    start = np.cumsum([0, *map(len, per_frame)])
    return ObjectTable(start, track, np.zeros(len(track), np.int32), np.zeros((len(track), 4), np.float32), None, ["x"])


def builder(tracks: list[set[int]], gap: int, order: list[int]) -> list[tuple[int, int]]:
    """The released builder's loop over one video, with its shuffle given and every start tried."""
    n = len(tracks)
    if n < 10:
        return []
    limit = min(max(n // (gap + 1), 10), 30)
    used: set[int] = set()
    clips = []
    for start in order:
        pair = (start, start + gap)
        if pair[1] >= n or used & set(pair) or not tracks[pair[0]] & tracks[pair[1]]:
            continue
        clips.append(pair)
        used |= set(pair)
        if len(clips) == limit:
            break
    return sorted(clips)


@pytest.mark.parametrize("gap", [3, 5, 25])
def test_clips_are_those_of_the_builder(gap: int) -> None:
    rng = np.random.default_rng(gap)
    lengths = [40, 9, 10, 130, 27]
    table = make_table([seconds(n) for n in lengths])
    tracks = [{int(t) for t in range(3) if rng.random() < 0.6} for _ in range(len(table))]
    object.__setattr__(table, "objects", objects(dict(enumerate(tracks)), len(table)))
    draw = OffsetsDraw(offsets_s=(0, gap), shared="track", subset=Subset())
    made = params({"d": draw.model_dump(exclude_none=True)}, seed=4)
    rows = build_draw("d", draw, table, np.ones(len(table), bool), made)

    from components.index.draws import uniform

    chance = uniform(table, 4, "d/subset", 1)[:, 0]
    expected, first = [], 0
    for n in lengths:
        order = np.argsort(chance[first : first + n], kind="stable").tolist()
        clips = builder(tracks[first : first + n], gap, order)
        expected += [(first + a, first + b) for a, b in clips]
        first += n
    assert rows.tolist() == [list(pair) for pair in expected]
    frames = rows.ravel().tolist()
    assert len(frames) == len(set(frames))


def test_another_seed_takes_others_and_another_video_changes_nothing() -> None:
    def taken(lengths: list[int], seed: int) -> list[list[int]]:
        table = make_table([seconds(n) for n in lengths])
        draw = OffsetsDraw(offsets_s=(0, 3), subset=Subset(per_video=(2, 4)))
        made = params({"d": draw.model_dump(exclude_none=True)}, seed=seed)
        return build_draw("d", draw, table, np.ones(len(table), bool), made).tolist()

    assert taken([60], 0) == taken([60], 0) != taken([60], 1)
    assert taken([60, 50], 0)[:4] == taken([60], 0)
    assert len(taken([60], 0)) == 4


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="least, most"):
        Subset(per_video=(5, 2))


def test_an_exact_share_is_held_out() -> None:
    names = [f"v{number}" for number in range(3471)]
    split = split_exactly(names, np.ones(3471, bool), 0.2, seed=0)
    assert ((split == TRAIN).sum(), (split == VAL).sum()) == (2776, 695)  # TimeT's cut of YouTube-VOS
    assert (split != split_exactly(names, np.ones(3471, bool), 0.2, seed=1)).any()
    usable = np.arange(3471) % 2 == 0
    some = split_exactly(names, usable, 0.2, seed=0)
    assert (some[usable] == VAL).sum() == 1736 - int(0.8 * 1736) and (some[~usable] == TRAIN).all()
    with pytest.raises(StageError, match="holds out all 1 videos"):
        split_exactly(["a"], np.ones(1, bool), 0.5, seed=0)
