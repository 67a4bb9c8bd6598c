"""k-NN figures from features or from predictions: the part of the task that needs no encoder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.common.errors import StageError
from components.evaluate.class_score import TOP, accuracies

if TYPE_CHECKING:
    from torch import Tensor

MAX_CLASSES = 1 << 20  # votes are a table of queries by classes


@dataclass(frozen=True)
class Votes:
    """How neighbours vote."""

    ks: tuple[int, ...]
    primary_k: int
    temperature: float
    query_rows: int = 1024


@dataclass(frozen=True)
class Found:
    """Figures, and at the primary k the classes by falling vote (Q, up to 5); neighbours (Q, k) at the largest k."""

    metrics: dict[str, float]
    primary_k: int
    ranking: Tensor
    similarities: Tensor
    neighbours: Tensor
    notes: list[str]


def classify(
    queries: Tensor,
    train_chunks: Iterable[Tensor],
    train_labels: Tensor,
    labels: Tensor,
    how: Votes,
    n_classes: int,
) -> Found:
    """Top-1 and top-5 for every k; below 5 neighbours "top-5" looks at k classes, as the released code does.

    Args:
        queries: (Q, D) features; `labels` (Q,) their classes.
        train_chunks: (N_i, D) features; `train_labels` (N,) their classes.
        how: numbers of neighbours and temperature; a k beyond N becomes N, with a note.
        n_classes: classes; with five or fewer there is no top-5.
    """
    from components.evaluate.knn_metrics import nearest, ranking, usable, votes

    ks, notes = list(usable(how.ks, len(train_labels))), []
    if max(how.ks) > len(train_labels):
        notes.append(f"k limited to the {len(train_labels)} training pictures: {ks} instead of {list(how.ks)}")
    primary_k = how.primary_k if how.primary_k in ks else max([k for k in ks if k <= how.primary_k], default=min(ks))
    if primary_k != how.primary_k:
        notes.append(f"ranked by k = {primary_k}, since k = {how.primary_k} is not among {ks}")
    similarities, neighbours = nearest(queries, train_chunks, max(ks), how.query_rows)
    neighbour_labels = train_labels[neighbours]
    metrics: dict[str, float] = {}
    ranked: dict[int, Tensor] = {}
    for k in ks:
        ballot = votes(similarities[:, :k], neighbour_labels[:, :k], n_classes, how.temperature)
        ranked[k] = ranking(ballot, min(TOP, k) if n_classes > TOP else 1)  # k neighbours name k classes at most
        metrics[f"top1_k{k}"] = accuracies(ranked[k].numpy(), labels.numpy())["top1"]
        if n_classes > TOP:
            metrics[f"top5_k{k}"] = float((ranked[k] == labels[:, None]).any(1).double().mean())
    return Found(metrics, primary_k, ranked[primary_k], similarities, neighbours, notes)


def score_features(train: Path, test: Path, ks: Sequence[int], temperature: float) -> dict[str, Any]:
    """Figures of two feature files, by the protocol's votes."""
    import torch

    (x, x_labels), (y, y_labels) = read_features(train), read_features(test)
    if x.shape[1] != y.shape[1]:
        raise StageError(f"features differ in width: {x.shape[1]} and {y.shape[1]}", where=test)
    if min(ks) < 1 or not 0 < temperature < math.inf:
        raise StageError("k and the temperature must be positive")
    found = classify(
        torch.from_numpy(y),
        [torch.from_numpy(x)],
        torch.from_numpy(x_labels),
        torch.from_numpy(y_labels),
        Votes(tuple(ks), min(ks), temperature),
        n_classes=int(max(x_labels.max(), y_labels.max())) + 1,
    )
    return {"metrics": found.metrics, "n": len(y_labels), "notes": found.notes}


def read_features(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """`features` (N, D) as float32 and `labels` (N,) as int64 from an .npz that holds no Python objects."""
    try:
        with np.load(file, allow_pickle=False) as content:
            features, labels = content["features"], content["labels"]
    except Exception as error:  # zip and zlib raise whatever they stumble over
        raise StageError(f"expected an .npz with `features` and `labels`, {error}", where=file) from None
    if features.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
        what = f"features of type {features.dtype} and labels of type {labels.dtype}, expected real and whole numbers"
        raise StageError(what, where=file)
    if (
        features.ndim != 2
        or not features.size
        or labels.shape != features.shape[:1]
        or not len(labels)
        or labels.min() < 0
    ):
        what = f"features {features.shape} and labels {labels.shape} do not belong together"
        raise StageError(what, where=file, do="give (N, D) features and N class numbers from 0 on")
    features = features.astype(np.float32)
    if not np.isfinite(features).all():
        raise StageError("the features hold NaN or infinity", where=file)
    if labels.max() >= MAX_CLASSES:
        raise StageError(f"class number {labels.max()}, at most {MAX_CLASSES - 1} are counted", where=file)
    return features, labels.astype(np.int64)
