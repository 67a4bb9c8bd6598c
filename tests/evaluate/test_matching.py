"""Matching and mIoU against loops over pixels, pairs and permutations, written from the protocols' rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluate.matching import contingency, greedy, hungarian, iou_matrix, match

Maps = tuple[np.ndarray, np.ndarray]


@st.composite
def maps(draw: st.DrawFn, most: int = 4) -> Maps:
    """Labels with gaps and void, clusters of any number."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.choice([0, 1, 3, 6, 255][: draw(st.integers(1, 5))], n)
    return labels, rng.integers(0, draw(st.integers(1, most)), n)


def iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    union = np.sum(truth | predicted)
    return float(np.sum(truth & predicted) / union) if union else 0.0


def naive_miou(truth: np.ndarray, predicted: np.ndarray, labels: list[int]) -> float:
    return float(np.mean([iou(truth == label, predicted == label) for label in labels]))


def best_matchings(truth: np.ndarray, clusters: np.ndarray, labels: list[int], k: int) -> list[np.ndarray]:
    """The predictions of every one-to-one matching of largest summed IoU; clusters left over are background."""
    n = max(len(labels), k)
    padded = [*labels, *[None] * (n - len(labels))]
    found: list[tuple[float, np.ndarray]] = []
    for order in itertools.permutations(padded):
        pairs = [(label, cluster) for cluster, label in enumerate(order[:k]) if label is not None]
        total = sum(iou(truth == label, clusters == cluster) for label, cluster in pairs)
        predicted = np.zeros_like(truth)
        for label, cluster in pairs:
            predicted[clusters == cluster] = label
        found.append((total, predicted))
    best = max(total for total, _ in found)
    return [predicted for total, predicted in found if total > best - 1e-12]


def scored_labels(truth: np.ndarray, average: str, n_labels: int) -> list[int]:
    return list(range(n_labels)) if average == "all" else sorted(set(truth.tolist()))


@settings(max_examples=60, deadline=None)
@given(maps(), st.sampled_from(["present", "all"]))
def test_hungarian_is_the_best_of_all_permutations(pair: Maps, average: str) -> None:
    labels, clusters = pair
    k, n_labels = int(clusters.max()) + 1, 7 if average == "present" else 5
    if average == "all":
        labels = np.where(labels == 6, 4, labels)
    found = match(contingency(labels, clusters, n_labels, k, 255), "hungarian", average)  # type: ignore[arg-type]
    kept = labels != 255
    truth, seen = labels[kept], clusters[kept]
    if not kept.any():
        assert found is None
        return
    assert found is not None
    wanted = scored_labels(truth, average, n_labels)
    possible = [naive_miou(truth, p, wanted) for p in best_matchings(truth, seen, wanted, k)]
    assert any(found.miou == pytest.approx(value, abs=1e-12) for value in possible)
    assert found.labels.tolist() == wanted
    assert naive_miou(truth, found.label_of[seen], wanted) == pytest.approx(found.miou)


@settings(max_examples=60, deadline=None)
@given(maps(most=12), st.sampled_from(["present", "all"]))
def test_greedy_takes_the_most_precise_label(pair: Maps, average: str) -> None:
    labels, clusters = pair
    k, n_labels = int(clusters.max()) + 1, 7
    found = match(contingency(labels, clusters, n_labels, k, 255), "greedy", average)  # type: ignore[arg-type]
    kept = labels != 255
    truth, seen = labels[kept], clusters[kept]
    if found is None:
        assert not kept.any()
        return
    wanted = scored_labels(truth, average, n_labels)
    predicted = np.zeros_like(truth)
    for cluster in set(seen.tolist()):
        precision = [np.mean(truth[seen == cluster] == label) for label in wanted]
        predicted[seen == cluster] = wanted[int(np.argmax(precision))]
    assert found.miou == pytest.approx(naive_miou(truth, predicted, wanted))


@settings(max_examples=30, deadline=None)
@given(maps(most=9))
def test_renaming_clusters_changes_nothing(pair: Maps) -> None:
    labels, clusters = pair
    k = int(clusters.max()) + 1
    counts = contingency(labels, clusters, 7, k, 255)
    order = np.random.default_rng(1).permutation(k)
    for how in ("hungarian", "greedy"):
        first, second = match(counts, how, "present"), match(counts[:, order], how, "present")  # type: ignore[arg-type]
        assert (first is None) == (second is None)
        if first is not None and second is not None and how == "greedy":
            assert first.miou == pytest.approx(second.miou)
        elif first is not None and second is not None:  # ties may be broken otherwise, the matched sum may not change
            table = counts[counts.sum(1) > 0]
            sums = [_sum(table, hungarian(table)), _sum(table[:, order], hungarian(table[:, order]))]
            assert sums[0] == pytest.approx(sums[1])


def _sum(table: np.ndarray, rows: np.ndarray) -> float:
    return float(sum(iou_matrix(table)[row, column] for column, row in enumerate(rows) if row >= 0))


def test_counts_are_pixel_counts() -> None:
    rng = np.random.default_rng(0)
    truth, clusters = rng.choice([0, 1, 2, 255], (9, 8)), rng.integers(0, 5, (9, 8))
    counts = contingency(truth, clusters, 3, 5, 255)
    for label, cluster in itertools.product(range(3), range(5)):
        assert counts[label, cluster] == np.sum((truth == label) & (clusters == cluster))
    assert contingency(truth, clusters, 256, 5, None)[255].sum() == np.sum(truth == 255)


def test_spare_clusters_become_background_and_spare_labels_score_nothing() -> None:
    truth = np.array([0] * 6 + [1] * 4)
    more = match(contingency(truth, np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2]), 2, 3, 255), "hungarian", "present")
    assert more is not None and more.label_of.tolist() == [0, 0, 1] and more.miou == 1.0
    fewer = match(contingency(truth, np.zeros(10, int), 2, 1, 255), "hungarian", "present")
    assert fewer is not None and fewer.iou.tolist() == [0.6, 0.0]


def test_conventions_differ_where_labels_are_absent() -> None:
    """Over all classes an absent one counts 0, and in the Hungarian matching it may take a cluster."""
    counts = contingency(np.array([0, 0, 2, 2]), np.array([0, 0, 1, 1]), 4, 2, 255)
    present, everything = (match(counts, "hungarian", average) for average in ("present", "all"))  # type: ignore[arg-type]
    assert present is not None and everything is not None
    assert (present.miou, everything.miou) == (1.0, 0.5)
    counts = contingency(np.array([2, 2, 2, 2]), np.array([0, 0, 0, 1]), 4, 2, 255)
    present, everything = (match(counts, "hungarian", average) for average in ("present", "all"))  # type: ignore[arg-type]
    assert present is not None and everything is not None
    assert present.label_of.tolist() == [2, 0]  # left over: background
    assert everything.label_of[0] == 2 and everything.miou == pytest.approx(0.75 / 4)


def test_empty_clusters_are_harmless() -> None:
    counts = np.array([[5, 0, 0], [0, 0, 3]])
    assert greedy(counts).tolist() == [0, 0, 1]
    assert hungarian(counts)[[0, 2]].tolist() == [0, 1]
