"""Region similarity J and boundary accuracy F of the DAVIS challenge, exact and fast.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation" (CVPR 2016), as the
official DAVIS-2017 evaluation computes them. Every step works on bits packed into words, in the smallest window that
holds the object in both masks: outside of it both are empty. bench/jf.py measures what that saves.
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
    packed = [bits.pack(mask) for mask in (truth, predicted)]
    window = bits.window(packed[0] | packed[1])
    if window is None:
        return 1.0, 1.0  # absent from both: nothing was missed
    t, p = maps = bits.to_words([mask[window] for mask in packed], radius + 1)
    edges = bits.boundary(maps, truth.shape[1] - 8 * window[1].start)
    near = bits.near(edges, radius)
    counts = bits.count(np.concatenate([[t & p, t | p], edges, edges & near[::-1]])).tolist()
    return counts[0] / counts[1], boundary_f(*counts[2:])


def boundary_f(n_truth: int, n_predicted: int, truth_met: int, predicted_met: int) -> float:
    """F from the lengths of two boundaries, and how many pixels of each are near the other."""
    if not n_truth or not n_predicted:
        return float(n_truth == n_predicted)  # one side has no boundary: precision or recall is 0
    precision, recall = predicted_met / n_predicted, truth_met / n_truth
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
