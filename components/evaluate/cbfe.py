"""Cluster-based foreground extraction (Leopart, arXiv:2204.13101, section 3.3), on tables of counts; needs no torch.

Clusters of patches are foreground or background as a whole. The encoder's own attention, which is noisy, votes: a
cluster's precision is the share of it that attention covers, averaged over the pictures that hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

CUTS = (0.55, 0.75)  # share of the clusters, the least precise ones, that may become background
ROUND_TO = 0.05  # the threshold carries over to another split, so it is kept coarse


@dataclass(frozen=True)
class Tables:
    """Pixels of each cluster in each picture, (n, K): all, those under attention, those of the true foreground."""

    size: Counts
    attended: Counts
    true: Counts
    foreground: Counts  # (n,) true foreground of each picture


def tabulate(pictures: Iterable[tuple[NDArray[np.integer], Mask, Mask]], k: int) -> Tables:
    """Tables of (clusters, attention, true foreground), three maps of one size for each picture."""
    rows: list[list[Counts]] = []
    foreground = []
    for clusters, attention, truth in pictures:
        rows.append([np.bincount(clusters[where], minlength=k) for where in (np.ones_like(truth), attention, truth)])
        foreground.append(np.count_nonzero(truth))
    size, attended, true = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Tables(size, attended, true, np.array(foreground, np.int64))


def precisions(tables: Tables) -> NDArray[np.float64]:
    """(K,) share of a cluster under attention, mean over the pictures that hold it; 0 for a cluster in none."""
    held = tables.size > 0
    share = np.where(held, tables.attended / np.maximum(tables.size, 1), 0.0)
    return np.asarray(share.sum(0) / np.maximum(held.sum(0), 1))


def ious(tables: Tables, chosen: Mask) -> NDArray[np.float64]:
    """(n,) IoU of each picture when the `chosen` clusters are foreground; 1 where both sides are empty."""
    both = tables.true[:, chosen].sum(1)
    union = tables.size[:, chosen].sum(1) + tables.foreground - both
    return np.where(union > 0, both / np.maximum(union, 1), 1.0)


def best_threshold(tables: Tables) -> float:
    """The precision from which on a cluster is foreground: the best cut on this split, rounded.

    Clusters are sorted by precision, and each number of them between 55 % and 75 % is tried as background. Of equal
    cuts the one with the smaller foreground is taken. This looks at true foreground.
    """
    found = precisions(tables)
    order, k = np.argsort(found, kind="stable"), len(found)
    first, last = (int(share * k) for share in CUTS)
    best, threshold = -1.0, 0.0
    for start in range(first, max(last, first + 1)):
        chosen = np.zeros(k, bool)
        chosen[order[start:]] = True
        value = float(ious(tables, chosen).mean())
        if value >= best:
            best, threshold = value, float(found[order[start]])
    steps = np.arange(0, 1, ROUND_TO)
    return float(steps[np.abs(steps - threshold).argmin()])


def boundary_f(truth: Mask, predicted: Mask, tolerance_px: float) -> float | None:
    """Boundary F1 of two masks (Csurka et al., BMVC 2013): contour pixels less than `tolerance_px` apart match.

    The released evaluation's rules: a prediction that is all or nothing scores 0, and a picture whose truth has no
    contour is left out (None).
    """
    if predicted.all() or not predicted.any():
        return 0.0
    t, p = contour(truth), contour(predicted)
    if not len(t):
        return None
    precision = float(np.mean(_distance(t, truth.shape)[p[:, 1], p[:, 0]] < tolerance_px))
    recall = float(np.mean(_distance(p, truth.shape)[t[:, 1], t[:, 0]] < tolerance_px))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> NDArray[np.int32]:
    """(n, 2) x, y of the contours' pixels, inside the mask; one that is passed twice counts twice."""
    import cv2

    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.concatenate([line[:, 0] for line in lines]) if lines else np.zeros((0, 2), np.int32)


def _distance(points: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Distance of every pixel to the nearest of the points."""
    from scipy.ndimage import distance_transform_edt

    free = np.ones(shape, bool)
    free[points[:, 1], points[:, 0]] = False
    return np.asarray(distance_transform_edt(free))
