"""Samples as a plan asks for them: frames drawn anew each epoch, both ways, with masks, from any worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.common.errors import StageError
from components.pretrain.data import Batch, ClipDataset, to_device
from components.pretrain.loader import make_loader
from components.pretrain.plan import (
    BlockMasks,
    Consecutive,
    Crop,
    Masks,
    Photometric,
    RangeTimes,
    Regular,
    Sandwich,
    StratifiedMasks,
    Timing,
    UniformTimes,
    ViewPlan,
)
from components.pretrain.sampler import EpochSampler, Key

from .corpus import FPS, RANGE_S

CPU = torch.device("cpu")
Corpus = tuple[Path, Path]


def plan(draw: str, n_frames: int, timing: Timing | None = None, mask: Masks | None = None, **more: Any) -> ViewPlan:
    crop = Crop("global", 32, (0.4, 1.0), (Photometric(),) * 2, tuple(range(n_frames)), mask=mask)
    return ViewPlan(draw, n_frames, (crop,), timing=timing, patch_px=8, **more)


def frames_of(dataset: ClipDataset, epochs: int = 1) -> np.ndarray:
    return np.array([
        [dataset.frames(Key(epoch, sample)) for sample in range(len(dataset))] for epoch in range(epochs)
    ])  # fmt: skip


@pytest.mark.parametrize("timing", [Sandwich(), UniformTimes(4), Consecutive(4), Consecutive(3, 0.5), Regular(3, 0.5)])
def test_frames_of_a_span_are_drawn_anew_each_epoch(corpus: Corpus, timing: Timing) -> None:
    dataset = ClipDataset(*corpus, plan("span", timing.n_frames, timing), seed=0)
    spans, found = dataset.index.draw("span"), frames_of(dataset, epochs=2)
    assert found.shape == (2, len(spans), timing.n_frames)
    assert (found >= spans[:, :1]).all() and (found <= spans[:, 1:]).all()
    assert (found[0] != found[1]).any(axis=1).mean() > 0.5
    np.testing.assert_array_equal(found, frames_of(ClipDataset(*corpus, dataset.plan, seed=0), epochs=2))
    assert (found != frames_of(ClipDataset(*corpus, dataset.plan, seed=1), epochs=2)).any()
    if isinstance(timing, Consecutive | Regular):
        step_s = np.diff(dataset.index.columns["pts_s"][found])
        assert np.allclose(step_s, 1 / FPS if timing == Consecutive(4) else 0.5)


def test_the_second_frame_of_a_pair_is_drawn_anew(corpus: Corpus) -> None:
    dataset = ClipDataset(*corpus, plan("range", 2, RangeTimes(*RANGE_S)), seed=0)
    pairs, found = dataset.index.draw("range"), frames_of(dataset, epochs=8)
    assert (found[:, :, 0] == pairs[:, 0]).all()
    later_s = np.diff(dataset.index.columns["pts_s"][found])[..., 0]
    assert sorted(set(later_s.ravel().tolist())) == [0.25, 0.5, 0.75]
    assert (dataset.index.columns["video"][found[:, :, 0]] == dataset.index.columns["video"][found[:, :, 1]]).all()


def test_both_ways_make_every_frame_an_anchor(corpus: Corpus) -> None:
    once, both = (ClipDataset(*corpus, plan("pair", 2, both_ways=both), seed=0) for both in (False, True))
    assert len(both) == 2 * len(once)
    rows = np.asarray(once.index.draw("pair"))
    found = frames_of(both)[0]
    np.testing.assert_array_equal(found[::2], rows)
    np.testing.assert_array_equal(found[1::2], rows[:, ::-1])
    timed = ClipDataset(*corpus, plan("range", 2, RangeTimes(*RANGE_S), both_ways=True), seed=0)
    found = frames_of(timed, epochs=2)
    np.testing.assert_array_equal(found[:, ::2], found[:, 1::2, ::-1])


def test_both_ways_have_views_of_their_own(corpus: Corpus) -> None:
    dataset = ClipDataset(*corpus, plan("pair", 2, both_ways=True), seed=0)
    one, other = dataset[Key(0, 6)], dataset[Key(0, 7)]
    assert not torch.equal(one.geometry["global"], other.geometry["global"])
    assert [int(one.samples), int(other.samples)] == [6, 7]


def equal(one: Batch, two: Batch) -> bool:
    pairs = zip(to_device(one, CPU, *NORM).items(), to_device(two, CPU, *NORM).items(), strict=True)
    return torch.equal(one.samples, two.samples) and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


NORM = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize("mask", [BlockMasks(), StratifiedMasks()])
def test_masks_and_times_are_the_same_from_any_worker_process_and_step(corpus: Corpus, mask: Masks) -> None:
    dataset = ClipDataset(*corpus, plan("span", 3, Sandwich(), mask, both_ways=True), seed=5)
    n = len(dataset)
    alone = list(make_loader(dataset, EpochSampler(n, 8, 5, steps=4), workers=0, device=CPU))
    sampler = EpochSampler(n, 8, 5, steps=4, start=1)
    resumed = list(make_loader(dataset, sampler, workers=2, device=CPU, start_method="fork"))
    assert len(resumed) == 3 and all(equal(a, b) for a, b in zip(alone[1:], resumed, strict=True))
    for rank in (0, 1):
        shard = EpochSampler(n, 8, 5, steps=4, rank=rank, world=2)
        for whole, part in zip(alone, make_loader(dataset, shard, workers=0, device=CPU), strict=True):
            half = slice(4 * rank, 4 * rank + 4)
            assert torch.equal(part.masks["global"], whole.masks["global"][half])
            assert torch.equal(part.views["global"], whole.views["global"][half])
    counts = torch.stack([batch.masks["global"].sum(dim=(3, 4)) for batch in alone])
    assert counts.shape == (4, 8, 2, 3)
    if isinstance(mask, StratifiedMasks):
        assert ((counts > 0).sum(dim=(1, 2, 3)) == 24).all()  # of 8 x 2 x 3 crops; at least int(16 * 0.1) patches each


def test_masks_move_no_view(corpus: Corpus) -> None:
    plain, masked = (ClipDataset(*corpus, plan("pair", 2, mask=mask), seed=0) for mask in (None, BlockMasks()))
    one, two = plain[Key(1, 3)], masked[Key(1, 3)]
    assert torch.equal(one.views["global"], two.views["global"])
    assert torch.equal(one.geometry["global"], two.geometry["global"])
    assert one.masks == {} and two.masks["global"].shape == (2, 2, 4, 4)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (plan("pair", 3, Sandwich()), "draw 'pair' has no spans, the method's views need spans"),
        (plan("span", 2), "draw 'span' has spans, the method's views need frames"),
        (plan("span", 4, Regular(4, 1.0)), None),
        (plan("span", 16, Consecutive(16)), "36 of the 36 spans of draw 'span' are too short.*min_frames or min_s"),
        (plan("range", 2, RangeTimes(0.3, 0.75)), r"does not say .* 0.3 to 0.75 s later.*ranges_s: \[\[0.3, 0.75\]\]"),
        (plan("pair", 2, RangeTimes(0.25, 0.75)), "does not say which frames have another"),
    ],
)
def test_a_draw_that_does_not_give_the_frames_is_refused(corpus: Corpus, wanted: ViewPlan, message: str | None) -> None:
    if message is None:
        ClipDataset(*corpus, wanted, seed=0)
        return
    with pytest.raises(StageError, match=message):
        ClipDataset(*corpus, wanted, seed=0)
