"""Region similarity J and boundary accuracy F of the DAVIS challenge, exact and fast.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation" (CVPR 2016), as the
official DAVIS-2017 evaluation computes them. Every step works on the smallest window that holds the object in both
masks; outside of it both masks are empty, so nothing changes. bench/jf.py measures what that saves: 5 to 17 times.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from components.evaluate.bits import near, pack

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
    t, p = truth.view(np.uint8), predicted.view(np.uint8)
    window = _window(t, p)
    if window is None:
        return 1.0, 1.0  # absent from both: nothing was missed
    t, p = t[window], p[window]
    return _jaccard(t, p), _boundary_f(boundary(t), boundary(p), radius)


def tolerance_px(height: int, width: int) -> int:
    """Radius within which two boundary pixels match: 8 px at 480x854."""
    return math.ceil(BOUNDARY_SHARE_OF_DIAGONAL * math.hypot(height, width))


def boundary(mask: Mask) -> Mask:
    """1 where a 0/1 mask differs from its right, lower or lower-right neighbour.

    The last row looks right only, the last column down only, the last corner is 0: a mask that touches the border
    has no boundary there.
    """
    edge = np.zeros_like(mask)
    here, right, below, diagonal = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    edge[:-1, :-1] = (here ^ right) | (here ^ below) | (here ^ diagonal)
    edge[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edge


def statistics(values: NDArray[np.float64]) -> Statistics:
    """Mean, share of frames above 0.5, and mean of the first quarter minus mean of the last.

    Neighbouring quarters share their end point. The official code keeps the quarters' ends in 8 bits, which wraps
    beyond 256 frames and gives another decay there; no DAVIS sequence is that long, and here it does not wrap.
    """
    ends = np.round(np.linspace(1, len(values), DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[-2] : ends[-1] + 1]
    return Statistics(float(values.mean()), float((values > RECALL_ABOVE).mean()), float(first.mean() - last.mean()))


def _window(truth: Mask, predicted: Mask) -> tuple[slice, slice] | None:
    """Box around both masks, one pixel wider for the boundary's left and upper side; None if both are empty."""
    boxes = [box for box in (cv2.boundingRect(truth), cv2.boundingRect(predicted)) if box[2]]
    if not boxes:
        return None
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)


def _jaccard(truth: Mask, predicted: Mask) -> float:
    both, either = cv2.countNonZero(truth & predicted), cv2.countNonZero(truth | predicted)
    return both / either if either else 1.0


def _boundary_f(truth: Mask, predicted: Mask, radius: int) -> float:
    stride = truth.shape[1] + radius
    t, p = pack(truth, stride), pack(predicted, stride)
    if not t or not p:
        return float(t == p)  # one side has no boundary: precision or recall is 0
    precision = (p & near(t, stride, radius)).bit_count() / p.bit_count()
    recall = (t & near(p, stride, radius)).bit_count() / t.bit_count()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
