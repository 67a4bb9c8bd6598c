"""Region similarity J and boundary accuracy F of the DAVIS challenge, exact and fast.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation" (CVPR 2016), as the
official DAVIS-2017 evaluation computes them. Every step works on the smallest window that holds the object in both
masks, outside of which both are empty, and on bits packed into one integer. bench/jf.py measures what that saves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.evaluate import bits

Mask = NDArray[np.uint8]

BOUNDARY_SHARE_OF_DIAGONAL = 0.008  # tolerance of F
RECALL_ABOVE = 0.5
DECAY_BINS = 4
VOID = 255


class Statistics(NamedTuple):
    """Mean, recall and decay of one object's values over its frames."""

    mean: float
    recall: float
    decay: float


def object_count(first_mask: Mask) -> int:
    """Objects to score: the largest id of the first mask, void (255) aside. Later ids are never scored."""
    return int(first_mask[first_mask != VOID].max(initial=0))


def frame_scores(truth: Mask, predicted: Mask, n_objects: int) -> tuple[list[float], list[float]]:
    """J and F of objects 1..n_objects in one frame; both masks are (H, W) uint8 id maps of one size."""
    radius = tolerance_px(*truth.shape)
    scores = [object_scores(truth == i, predicted == i, radius) for i in range(1, n_objects + 1)]
    return [j for j, _ in scores], [f for _, f in scores]


def object_scores(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], radius: int) -> tuple[float, float]:
    """J and F of one object in one frame."""
    window = _window(truth, predicted)
    if window is None:
        return 1.0, 1.0  # absent from both: nothing was missed
    height, width = truth[window].shape
    stride = width + radius + 1
    t, p = (bits.pack_repeated(mask[window].view(np.uint8), stride) for mask in (truth, predicted))
    here = bits.inside(height, width, stride)
    j = (t & p & here).bit_count() / ((t | p) & here).bit_count()
    edges = [bits.boundary(mask, stride) & here for mask in (t, p)]
    return j, boundary_f(*edges, *(bits.near(edge, stride, radius) for edge in edges))


def boundary_f(truth: int, predicted: int, near_truth: int, near_predicted: int) -> float:
    """F of two packed boundaries and their dilations."""
    if not truth or not predicted:
        return float(truth == predicted)  # one side has no boundary: precision or recall is 0
    precision = (predicted & near_truth).bit_count() / predicted.bit_count()
    recall = (truth & near_predicted).bit_count() / truth.bit_count()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance_px(height: int, width: int) -> int:
    """Radius within which two boundary pixels match: 8 px at 480x854."""
    return math.ceil(BOUNDARY_SHARE_OF_DIAGONAL * math.hypot(height, width))


def statistics(values: NDArray[np.float64], eight_bits: bool = False) -> Statistics:
    """Mean, share of frames above 0.5, and mean of the first quarter minus mean of the last.

    Neighbouring quarters share their end point. The official code keeps the quarters' ends in 8 bits, which wraps
    beyond 256 frames and gives another decay there, or none (NaN) where a quarter ends before it begins; no DAVIS
    sequence is that long. `eight_bits` does so too.
    """
    ends = np.round(np.linspace(1, len(values), DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    ends = ends % 256 if eight_bits else ends
    first, last = values[ends[0] : ends[1] + 1], values[ends[-2] : ends[-1] + 1]
    decay = float(first.mean() - last.mean()) if len(first) and len(last) else math.nan
    return Statistics(float(values.mean()), float((values > RECALL_ABOVE).mean()), decay)


def _window(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Box around both masks, one pixel wider for the boundary; None if both are empty."""
    rows = np.flatnonzero(truth.any(1) | predicted.any(1))
    if not len(rows):
        return None
    wide = slice(max(rows[0] - 1, 0), rows[-1] + 2)
    columns = np.flatnonzero(truth[wide].any(0) | predicted[wide].any(0))
    return wide, slice(max(columns[0] - 1, 0), columns[-1] + 2)
