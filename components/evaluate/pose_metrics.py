"""Joints as heat maps and back, and PCK, as JHMDB propagation defines them.

The released evaluation of UVC and videowalk (Li et al., arXiv:1909.11895; Jabri et al., arXiv:2006.14613), shared by
CropMAE and T-CoRe. A joint is right if it is within a share of the person's size, and that size is 0.6 times the
diagonal of the box of the true joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Lost = Literal["left_out", "wrong"]

REACH = 3.0  # a heat map is cut off at so many sigmas


def heat_maps(joints: Array, size: tuple[int, int], grid: tuple[int, int], sigma: float) -> Array:
    """(h, w, 1 + joints): background, which is 1 where no joint is, then a Gaussian of peak 1 for each joint.

    Args:
        joints: (joints, 2) x, y in pixels counted from 0.
        size: (height, width) of the frame.
        grid: (h, w) of the features.
        sigma: in cells.
    """
    places = joints * np.array([grid[1] / size[1], grid[0] / size[0]])
    maps = np.stack([heat_map(place, grid, sigma) for place in places], axis=-1)
    return np.concatenate([(maps.sum(-1) == 0)[..., None].astype(float), maps], axis=-1)


def heat_map(place: Array, grid: tuple[int, int], sigma: float) -> Array:
    """(h, w) Gaussian about the cell nearest to `place` (x, y in cells), on a patch that leans to the upper left.

    As released: with sigma 0.5 the patch spans offsets -2..1. Bounds are rounded towards 0, so a joint less than 1.5
    cells from the left or upper side is drawn one cell further in and loses the patch's last line there. All 0 if the
    patch misses the grid.
    """
    side = math.ceil(2 * REACH * sigma + 1)
    centre = int((2 * REACH * sigma + 1) // 2)
    lines = []
    for at, cells in zip(place, reversed(grid), strict=True):
        low, high = int(at - REACH * sigma), int(at + REACH * sigma + 1)
        if low >= cells or high < 0:
            return np.zeros(grid)
        line = np.zeros(cells)
        for cell in range(max(0, low), min(high, cells, low + side)):
            line[cell] = math.exp(-((cell - low - centre) ** 2) / (2 * sigma**2))
        lines.append(line)
    return np.outer(lines[1], lines[0])


def decode(soft: Array, top: int) -> Array:
    """(joints, 2) x, y in cells from (h, w, 1 + joints): mean of the `top` largest cells, weighted by their values.

    A joint that is 0 everywhere is lost: (-1, -1). The first channel, background, is left out.
    """
    height, width, channels = soft.shape
    maps = soft[..., 1:].reshape(height * width, channels - 1)
    best = np.argsort(-maps, axis=0, kind="stable")[:top]
    values = np.take_along_axis(maps, best, axis=0)
    lost = maps.sum(0) == 0
    weights = values / np.where(lost, 1, values.sum(0))
    places = np.stack([(best % width * weights).sum(0), (best // width * weights).sum(0)], axis=-1)
    places[lost] = -1
    return places


def distances(truth: Array, predicted: Array, box_share: float, lost: Lost) -> Array:
    """Distance over person size (T - 1, joints) of all frames but the first; NaN for what is not scored.

    Args:
        truth: (T, joints, 2) in pixels.
        predicted: the same; x < 0 is a joint that was lost.
        box_share: the size is this share of the diagonal of the true joints' box.
        lost: `left_out` (published): a lost joint is not scored, and the box is that of the others; `wrong`: it
            counts as wrong, and the box is that of all joints.
    """
    seen = predicted[..., 0] >= 0
    boxed = np.where((seen if lost == "left_out" else np.ones_like(seen))[..., None], truth, np.nan)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        low, high = (_over_joints(function, boxed) for function in (np.fmin, np.fmax))
        sizes = box_share * np.linalg.norm(high - low, axis=-1)
        apart = np.linalg.norm(predicted - truth, axis=-1) / sizes[:, None]
    apart[np.isnan(apart)] = np.inf  # a person without extent is missed, whatever is predicted
    apart[~seen] = np.nan if lost == "left_out" else np.inf
    return apart[1:]


def pck(apart: Array, thresholds: Sequence[float]) -> Array:
    """Share of scored (clip, frame) within each threshold, (thresholds, joints); NaN for a joint never scored."""
    scored = (~np.isnan(apart)).sum(0)
    within = np.stack([(apart <= threshold).sum(0) for threshold in thresholds])
    return np.divide(within, scored, out=np.full(within.shape, np.nan), where=scored > 0)


def _over_joints(function: np.ufunc, positions: Array) -> Array:
    return np.asarray(function.reduce(positions, axis=1))
