"""Figures of cluster maps of pictures against label maps, read from files; needs no model and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.common.errors import StageError
from components.evaluate.cluster_maps import read_clusters, square_side
from components.evaluate.matching import VOID, Average, Counts, Match, Matched, contingency, match
from components.evaluate.stills import square_labels


def score_maps(pairs: Iterable[tuple[Path, Path]], n_classes: int, how: Match, average: Average) -> Matched:
    """All pictures' clusters matched to labels at once, on the maps' own grid; void (255) is left out.

    Args:
        pairs: (label map, square cluster map) files.

    Raises:
        StageError: a map is missing or unreadable, a label is no class, or every pixel is void.
    """
    found = match(count_maps(pairs, n_classes), how, average)
    if found is None:
        raise StageError("nothing to score: every pixel is void")
    return found


def count_maps(pairs: Iterable[tuple[Path, Path]], n_classes: int) -> Counts:
    """(n_classes, clusters) pixels of all pictures together."""
    total = np.zeros((n_classes, 1), np.int64)
    for truth_file, cluster_file in pairs:
        clusters = read_clusters(cluster_file)
        labels = square_labels(truth_file, square_side(clusters, cluster_file), n_classes)
        k = max(int(clusters.max()) + 1, total.shape[1])
        total = np.pad(total, ((0, 0), (0, k - total.shape[1])))
        total += contingency(labels, clusters, n_classes, k, VOID)
    return total


def seed_figures(found: Mapping[str, Sequence[Matched]]) -> dict[str, float]:
    """Mean mIoU over the seeds of each clustering, by its name, and the deviation where there are several."""
    metrics = {}
    for name, of_seeds in found.items():
        values = [seed.miou for seed in of_seeds]
        metrics[f"miou_{name}"] = float(np.mean(values))
        if len(values) > 1:
            metrics[f"miou_{name}_std"] = float(np.std(values))
    return metrics


def seed_rows(found: Mapping[str, Sequence[Matched]], names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: its IoU in each clustering, mean over seeds; the classes are the same in all of them."""
    first = next(iter(found.values()))[0]
    return [
        {
            "class": names[label],
            "true_pixels": int(first.true_pixels[i]),
            **{f"miou_{name}": float(np.mean([seed.iou[i] for seed in of])) for name, of in found.items()},
        }
        for i, label in enumerate(first.labels)
    ]
