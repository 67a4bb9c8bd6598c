"""Masks against a rendition cell by cell, the shares that the sources give, and who gets which mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pretrain.masking import block_mask, crop_mask, draw_masks, draw_share, random_mask, stratified_mask
from components.pretrain.plan import BlockMasks, Crop, Photometric, StratifiedMasks, ViewPlan
from components.pretrain.sampler import EpochSampler, Key


def plan(masks: Any, views: int = 2, frames: int = 1, grid: int = 14) -> ViewPlan:
    crop = Crop("global", 8 * grid, (0.4, 1.0), (Photometric(),) * views, tuple(range(frames)), mask=masks)
    local = Crop("local", 16, (0.1, 0.4), (Photometric(),))
    return ViewPlan("frame", frames, (crop, local), patch_px=8)


def naive_block_mask(grid: int, target: float, rng: np.random.Generator, least: float) -> np.ndarray:
    """The sampler as iBOT states it, on an array of cells."""
    mask = np.zeros((grid, grid), bool)
    numbers = (row for _ in range(10_000) for row in rng.random((8, 4)))
    while mask.sum() < target:
        for _ in range(10):
            area, aspect, top, left = next(numbers)
            size = least + area * (target - mask.sum() - least)
            ratio = math.exp(math.log(0.3) + aspect * (math.log(1 / 0.3) - math.log(0.3)))
            h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
            if h < grid and w < grid:
                y, x = int(top * (grid - h + 1)), int(left * (grid - w + 1))
                piece = mask[y : y + h, x : x + w]
                if 0 < (~piece).sum() <= target - mask.sum():
                    piece[:] = True
                    break
        else:
            return mask
    return mask


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20), st.floats(0, 0.9), st.integers(0, 2**31))
def test_a_block_mask_is_that_of_the_cells(grid: int, share: float, seed: int) -> None:
    target, least = share * grid * grid, (grid // 3) ** 2
    ours = block_mask(grid, target, np.random.default_rng(seed), least_area=least)
    assert ours.dtype == bool and ours.shape == (grid, grid) and ours.sum() <= target
    np.testing.assert_array_equal(ours, naive_block_mask(grid, target, np.random.default_rng(seed), least))


@pytest.mark.parametrize(("share", "realised"), [(0.1, 0.090), (0.3, 0.292), (0.5, 0.498)])
def test_realised_shares_are_those_of_ibots_sampler(share: float, realised: float) -> None:
    rng = np.random.default_rng(0)
    masks = [crop_mask(BlockMasks(), share, 14, rng) for _ in range(1500)]
    assert np.mean(masks) == pytest.approx(realised, abs=0.002)
    where = np.mean(masks, axis=0)  # more in the middle, where more blocks fit, and no side before another
    for mirrored in (where[::-1], where[:, ::-1], where.T):
        assert np.abs(where - mirrored).max() < 0.08


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 16), st.floats(0, 0.99), st.integers(0, 2**31))
def test_exact_masks_meet_their_count_on_any_grid(grid: int, share: float, seed: int) -> None:
    count = int(grid * grid * share)
    assert block_mask(grid, count, np.random.default_rng(seed), least_area=4, exact=True).sum() == count
    assert random_mask(grid, count, np.random.default_rng(seed)).sum() == count


def test_half_of_the_crops_stay_whole_and_the_others_are_masked_by_10_to_50_percent() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([draw_share(BlockMasks(), 0, rng) for _ in range(4000)])
    masked = shares[shares > 0]
    assert len(masked) / len(shares) == pytest.approx(0.5, abs=0.03)
    assert masked.min() > 0.1 and masked.max() < 0.5 and masked.mean() == pytest.approx(0.3, abs=0.01)
    assert {draw_share(BlockMasks(start_epoch=3), 2, rng) for _ in range(20)} == {0.0}
    assert max(draw_share(BlockMasks(start_epoch=3), 3, rng) for _ in range(20)) > 0


def test_one_share_an_image_or_one_a_crop() -> None:
    def counts(per_image: bool) -> np.ndarray:
        masks = BlockMasks((0.25,), (0.2,), shape="random", per_image=per_image)
        drawn = [draw_masks(plan(masks), Key(0, sample), seed=1)["global"] for sample in range(20)]
        return np.array(drawn).sum(axis=(3, 4)).reshape(20, 2)

    assert (np.diff(counts(True), axis=1) == 0).all()
    assert (np.diff(counts(False), axis=1) != 0).mean() > 0.8
    two = draw_masks(plan(BlockMasks((0.3,), (0.0,), per_image=True)), Key(0, 0), seed=1)["global"]
    assert (two[0] != two[1]).any()  # places are drawn for each crop all the same


def test_masks_depend_on_seed_epoch_and_sample() -> None:
    masks = plan(BlockMasks((0.3,), (0.0,)), views=3, frames=2)
    one = draw_masks(masks, Key(1, 4), seed=0)
    assert one.keys() == {"global"} and one["global"].shape == (3, 2, 14, 14)
    assert len(np.unique(one["global"].reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(one["global"], draw_masks(masks, Key(1, 4, 7, 3, 64), seed=0)["global"])
    for other in (draw_masks(masks, Key(1, 4), 1), draw_masks(masks, Key(2, 4), 0), draw_masks(masks, Key(1, 5), 0)):
        assert (other["global"] != one["global"]).any()


def batch_masks(keys: list[Key], masks: StratifiedMasks, grid: int = 14, views: int = 2) -> np.ndarray:
    return np.stack([draw_masks(plan(masks, views, grid=grid), key, seed=3)["global"][:, 0] for key in keys])


@pytest.mark.parametrize("batch", [1, 4, 16, 33])
def test_exactly_half_of_a_batch_is_masked_by_rising_exact_counts(batch: int) -> None:
    """T-CoRe: 19 to 98 of 196 patches, one crop in each of the S parts of the range."""
    keys = next(iter(EpochSampler(batch, batch, 0, steps=1)))
    counts = np.sort(batch_masks(keys, StratifiedMasks()).sum(axis=(2, 3)).ravel())
    assert len(counts) == 2 * batch and (counts > 0).sum() == batch
    edges = np.linspace(0.1, 0.5, batch + 1)
    masked = counts[batch:]
    assert (np.floor(196 * edges[:-1] + 1e-9) <= masked).all() and (masked <= 196 * edges[1:]).all()


def test_a_quarter_of_an_odd_batch_is_rounded_down() -> None:
    keys = next(iter(EpochSampler(5, 5, 0, steps=1)))
    masks = batch_masks(keys, StratifiedMasks(share=0.25, ratio=(0.2, 0.2)), views=3)
    assert sorted(masks.sum(axis=(2, 3)).ravel().tolist()) == [0] * 12 + [39] * 3


def test_which_crop_is_masked_how_much_is_drawn_anew_each_step() -> None:
    steps = list(EpochSampler(8, 8, 0, steps=30))
    counts = np.array([batch_masks(keys, StratifiedMasks()).sum(axis=(2, 3)) for keys in steps])  # (30, 8, 2)
    assert len(np.unique(counts.reshape(30, -1) > 0, axis=0)) == 30
    assert (np.abs((counts > 0).mean(axis=0) - 0.5) < 0.4).all()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.integers(0, 5))
def test_processes_share_the_masks_of_one_whatever_the_start(world: int, local: int, start: int) -> None:
    batch, n = world * local, 3 * world * local
    whole = [batch_masks(keys, StratifiedMasks(), 6) for keys in EpochSampler(n, batch, 0, steps=6)]
    ranks = [EpochSampler(n, batch, 0, steps=6, start=start, rank=rank, world=world) for rank in range(world)]
    for step, parts in enumerate(zip(*ranks, strict=True), start):
        shared = np.concatenate([batch_masks(keys, StratifiedMasks(), 6) for keys in parts])
        np.testing.assert_array_equal(shared, whole[step])


def test_the_crops_beyond_the_share_are_whole() -> None:
    rng = np.random.default_rng(0)
    assert not stratified_mask(StratifiedMasks(), 4, 8, 14, rng).any()
    assert stratified_mask(StratifiedMasks(), 3, 8, 14, rng).sum() in range(int(196 * 0.4), 99)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BlockMasks(ratios=(0.3,), variations=(0.1, 0.2)),
        lambda: BlockMasks(ratios=(), variations=()),
        lambda: BlockMasks(ratios=(0.1,), variations=(0.2,)),
        lambda: BlockMasks(ratios=(0.9,), variations=(0.1,)),
        lambda: StratifiedMasks(share=1.5),
        lambda: StratifiedMasks(ratio=(0.5, 0.1)),
        lambda: ViewPlan("frame", 1, (Crop("global", 20, (0.4, 1), (Photometric(),), mask=BlockMasks()),), patch_px=8),
        lambda: ViewPlan("frame", 1, (Crop("global", 16, (0.4, 1), (Photometric(),), mask=BlockMasks()),)),
    ],
)
def test_plans_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"ratio|share|patches"):
        wrong()
