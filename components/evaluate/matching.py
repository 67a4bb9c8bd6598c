"""Clusters against labels: one table of pixel counts, two ways to name the clusters, two ways to average.

Everything follows from the counts, so a matching of 500 clusters costs milliseconds whatever the number of pixels; the
released codes (TimeT, Leopart) compare all pixels once for each pair of a cluster and a label. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

VOID = 255
BACKGROUND = 0

Counts = NDArray[np.int64]  # (labels, clusters) pixels
Match = Literal["hungarian", "greedy"]
Average = Literal["present", "all"]


def contingency(
    truth: NDArray[Any], clusters: NDArray[Any], n_labels: int, n_clusters: int, void: int | None
) -> Counts:
    """(n_labels, n_clusters) pixel counts; pixels whose truth is `void` are left out.

    Args:
        truth: labels 0..n_labels-1, or `void`.
        clusters: of the same shape, 0..n_clusters-1.
        n_labels, n_clusters: size of the table.
        void: the label that is never counted; None counts them all.
    """
    truth, clusters = truth.ravel().astype(np.int64), clusters.ravel().astype(np.int64)
    if void is not None:
        kept = truth != void
        truth, clusters = truth[kept], clusters[kept]
    return np.bincount(truth * n_clusters + clusters, minlength=n_labels * n_clusters).reshape(n_labels, n_clusters)


def iou_matrix(counts: Counts) -> NDArray[np.float64]:
    """IoU of every label with every cluster, 0 where both are empty."""
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    return counts / np.maximum(union, 1)


def hungarian(counts: Counts) -> NDArray[np.int64]:
    """The row of each cluster in the one-to-one matching of largest summed IoU; -1 for clusters left over."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(iou_matrix(counts), maximize=True)
    row_of = np.full(counts.shape[1], -1, np.int64)
    row_of[columns] = rows
    return row_of


def greedy(counts: Counts) -> NDArray[np.int64]:
    """The row where each cluster's precision is highest; many clusters may share one.

    Precision is a count over the cluster's size, so the largest count decides, and the first row where two are equal.
    """
    return counts.argmax(0).astype(np.int64)


def merged(counts: Counts, label_of: NDArray[np.int64]) -> Counts:
    """(L, L) confusion [truth, prediction] after each cluster took its label."""
    table = np.zeros((len(counts), len(counts)), np.int64)
    np.add.at(table.T, label_of, counts.T)
    return table


@dataclass(frozen=True)
class Matched:
    """A scope after the matching.

    Attributes:
        label_of: label of each cluster.
        labels: the labels that are scored.
        iou, true_pixels, predicted_pixels: of each of `labels`.
        miou: mean of `iou`.
    """

    label_of: NDArray[np.int64]
    labels: NDArray[np.int64]
    iou: NDArray[np.float64]
    true_pixels: NDArray[np.int64]
    predicted_pixels: NDArray[np.int64]
    miou: float


def match(counts: Counts, how: Match, average: Average) -> Matched | None:
    """Name the clusters and score them; None where no pixel is labelled.

    In the Hungarian matching clusters left over become background, and labels left over score 0.

    Args:
        counts: (L, K) table of all labels 0..L-1; those that do not occur have an empty row.
        how: `hungarian` (K about the number of labels) or `greedy` (over-clustering).
        average: `present` matches and averages the labels that occur, as TimeT does; `all` every label, as Leopart and
            Hummingbird do: an absent one counts 0, and in the Hungarian matching it may take a cluster.
    """
    if not counts.any():
        return None
    labels = np.arange(len(counts)) if average == "all" else np.flatnonzero(counts.sum(1))
    row_of = hungarian(counts[labels]) if how == "hungarian" else greedy(counts[labels])
    return score(counts, np.where(row_of >= 0, labels[row_of], BACKGROUND), labels)


def score(counts: Counts, label_of: NDArray[np.int64], labels: NDArray[np.int64]) -> Matched:
    """IoU of `labels` when each cluster bears the label `label_of` gives it."""
    confusion = merged(counts, label_of)
    both, truth, predicted = (x[labels] for x in (np.diag(confusion), confusion.sum(1), confusion.sum(0)))
    iou = both / np.maximum(truth + predicted - both, 1)
    return Matched(label_of, labels, iou, truth, predicted, float(iou.mean()))


def label_rows(found: Matched, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a label: IoU, pixels, and how many clusters bear it."""
    return [
        {
            "class": names[label] if names else str(label),
            "iou": float(iou),
            "true_pixels": int(truth),
            "predicted_pixels": int(predicted),
            "clusters": int(np.count_nonzero(found.label_of == label)),
        }
        for label, iou, truth, predicted in zip(
            found.labels, found.iou, found.true_pixels, found.predicted_pixels, strict=True
        )
    ]
