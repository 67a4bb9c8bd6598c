"""Which patches the student does not see: block masks after BEiT (arXiv:2106.08254), as iBOT and DINOv2 draw them.

A mask is built as one Python integer with a bit a patch: a block is laid on it by two operations, whatever its size,
which makes a mask of 14 x 14 patches some 20 us instead of the 200 us that array cells take.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from components.pretrain.plan import BlockMasks, StratifiedMasks, ViewPlan
from components.pretrain.sampler import MASK_STREAM, PLACE_STREAM, Key

ASPECT = (0.3, 1 / 0.3)  # height to width of a block, uniform in log space
IN_A_ROW = 10  # blocks that may fail to fit one after another before iBOT stops
STUCK = 100  # as many for an exact mask: on grids of a few patches no block may fit (14 x 14: chance below 1e-6)
AREA_AT_LEAST = 4  # patches of DINOv2's smallest block


def mask_shapes(plan: ViewPlan) -> dict[str, tuple[int, int, int, int]]:
    """Shape of each masked crop group's masks: (views, frames, grid, grid)."""
    masked = [crop for crop in plan.crops if crop.mask is not None]
    return {c.name: (len(c.photometric), len(c.frames), plan.grid(c), plan.grid(c)) for c in masked}


def draw_masks(plan: ViewPlan, key: Key, seed: int) -> dict[str, np.ndarray]:
    """The masks of one sample: per masked crop group bool (views, frames, grid, grid).

    They come from a stream of their own, so that a plan with masks has the views of one without.
    """
    if not any(crop.mask for crop in plan.crops):
        return {}
    rng = np.random.default_rng((MASK_STREAM, seed, key.epoch, key.sample))
    drawn = {}
    for number, crop in enumerate(plan.crops):
        views, grid = len(crop.photometric) * len(crop.frames), plan.grid(crop) if crop.mask else 0
        if isinstance(crop.mask, BlockMasks):
            drawn[crop.name] = _block_masks(crop.mask, views, key.epoch, grid, rng)
        elif isinstance(crop.mask, StratifiedMasks):
            places = batch_places((PLACE_STREAM, seed, key.step, number), key.batch * views)
            mine = places[key.place * views : (key.place + 1) * views].tolist()
            drawn[crop.name] = np.stack([stratified_mask(crop.mask, place, len(places), grid, rng) for place in mine])
    return {name: drawn[name].reshape(shape) for name, shape in mask_shapes(plan).items()}


def _block_masks(masks: BlockMasks, views: int, epoch: int, grid: int, rng: np.random.Generator) -> np.ndarray:
    """Masks of all views and frames of a sample: bool (views, grid, grid)."""
    once = draw_share(masks, epoch, rng) if masks.per_image else None
    shares = (draw_share(masks, epoch, rng) if once is None else once for _ in range(views))
    return np.stack([crop_mask(masks, share, grid, rng) for share in shares])


def draw_share(masks: BlockMasks, epoch: int, rng: np.random.Generator) -> float:
    """The share of a crop's patches to mask: one draw a ratio, then one of them (as iBOT's loader has it)."""
    shares = [rng.uniform(r - v, r + v) for r, v in zip(masks.ratios, masks.variations, strict=True)]
    return shares[int(rng.integers(len(shares)))] if epoch >= masks.start_epoch else 0.0


def crop_mask(masks: BlockMasks, share: float, grid: int, rng: np.random.Generator) -> np.ndarray:
    """Mask at most `share` of a crop: bool (grid, grid)."""
    if masks.shape == "random":
        return random_mask(grid, int(share * grid * grid), rng)
    return block_mask(grid, share * grid * grid, rng, least_area=(grid // 3) ** 2)


def stratified_mask(masks: StratifiedMasks, place: int, crops: int, grid: int, rng: np.random.Generator) -> np.ndarray:
    """The mask of the crop at `place` among a global batch's `crops`, masked ones first: bool (grid, grid).

    Of P patches exactly int(P * ratio) are masked, the ratio uniform in the `place`-th of equal parts of the range.
    """
    masked = int(crops * masks.share)
    if place >= masked:
        return np.zeros((grid, grid), bool)
    low, high = masks.ratio
    ratio = low + (high - low) * (place + rng.random()) / masked
    return block_mask(grid, int(grid * grid * ratio), rng, least_area=AREA_AT_LEAST, exact=True)


def block_mask(
    grid: int, target: float, rng: np.random.Generator, *, least_area: float, exact: bool = False
) -> np.ndarray:
    """Lay random blocks until `target` patches are masked, none of them beyond it: bool (grid, grid).

    Args:
        grid: patches along one side.
        target: patches to mask.
        least_area: smallest area that is drawn. Near the end the largest that fits may be smaller: then the two ends
            of the range change places.
        exact: go on until the target is met, with single patches where no block fits. Otherwise ten blocks in a row
            that do not fit end the search.
    """
    mask = covered = failed = 0
    for area, aspect, top, left in _uniforms(rng):
        if covered >= target or failed == (STUCK if exact else IN_A_ROW):
            break
        size = least_area + (target - covered - least_area) * area
        shape = math.exp(math.log(ASPECT[0]) + math.log(ASPECT[1] / ASPECT[0]) * aspect)
        height, width = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
        failed += 1
        if height < grid and width < grid:
            y, x = int(top * (grid - height + 1)), int(left * (grid - width + 1))
            new = _block(grid, height, width) << (y * grid + x) & ~mask
            if 0 < new.bit_count() <= target - covered:
                mask, covered, failed = mask | new, covered + new.bit_count(), 0
    cells = _cells(mask, grid)
    if exact and covered < target:
        cells.flat[rng.permutation(np.flatnonzero(~cells))[: int(target) - covered]] = True
    return cells


def random_mask(grid: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Mask `count` single patches: bool (grid, grid)."""
    mask = np.zeros(grid * grid, bool)
    mask[rng.permutation(grid * grid)[:count]] = True
    return mask.reshape(grid, grid)


@functools.lru_cache(maxsize=8)
def batch_places(seed: tuple[int, ...], crops: int) -> np.ndarray:
    """Place of each crop of a global batch in the order of strata: int64 (crops,), a permutation.

    A function of the step, so every worker and process finds the same one. The last few are kept, since a worker asks
    once a crop.
    """
    return np.random.default_rng(seed).permutation(crops)


def _uniforms(rng: np.random.Generator) -> Iterator[list[float]]:
    """Rows of four uniform numbers, drawn eight rows at a time: a call costs as much as the numbers."""
    while True:
        yield from rng.random((8, 4)).tolist()


@functools.cache
def _block(grid: int, height: int, width: int) -> int:
    """Bits of a block in the upper left corner."""
    row = (1 << width) - 1
    return sum(row << (y * grid) for y in range(height))


def _cells(mask: int, grid: int) -> np.ndarray:
    """A mask's bits as bool (grid, grid)."""
    cells = grid * grid
    data = np.frombuffer(mask.to_bytes((cells + 7) // 8, "little"), np.uint8)
    return np.unpackbits(data, count=cells, bitorder="little").astype(bool).reshape(grid, grid)
