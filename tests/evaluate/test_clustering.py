"""Scaler, PCA, sampling and k-means against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from components.common.errors import StageError
from components.evaluate.clustering import KMeans, centroids_of, draws, enlarged, nearest, reduction, upsampled


def features(n: int = 500, dim: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 100).astype(np.float32)


def test_reduction_is_standard_scaler_then_pca() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = features()
    x[:, 3] = 7.25  # constant: not scaled
    expected = PCA(5, svd_solver="full").fit_transform(StandardScaler().fit_transform(x.astype(np.float64)))
    found = reduction(np.array_split(x, 7), 5)(x)
    assert found.dtype == np.float32 and found.shape == (500, 5)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)
    np.testing.assert_allclose(reduction([x], 5)(x), found, atol=1e-6)  # chunks do not matter
    assert reduction([x], 50)(x.reshape(5, 10, 10, 12)).shape == (5, 10, 10, 12)  # fewer features than dimensions


def test_features_that_are_not_finite_are_refused() -> None:
    x = features()
    x[3, 2] = np.nan
    with pytest.raises(StageError, match="features are not finite"):
        reduction([x], 5)


def test_kmeans_finds_groups_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(4, 6)) * 20
    group = rng.integers(0, 4, 400)
    x = (centres[group] + rng.normal(size=(400, 6))).astype(np.float32)
    how = KMeans(niter=20, nredo=5)
    centroids = how.fit(x, 4, seed=1)
    found = nearest(x, centroids)
    assert all(len(np.unique(found[group == g])) == 1 for g in range(4)) and len(np.unique(found)) == 4
    distances = np.array([[np.sum((p.astype(np.float64) - c) ** 2) for c in centroids] for p in x])
    np.testing.assert_array_equal(found, distances.argmin(1))
    np.testing.assert_array_equal(how.fit(x, 4, seed=1), centroids)
    for g in range(4):  # a centroid is the mean of its points
        np.testing.assert_allclose(centroids[found[group == g][0]], x[group == g].mean(0), rtol=1e-4, atol=1e-3)
    norms = np.linalg.norm(KMeans(5, 1, spherical=True).fit(x, 4, seed=1), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    with pytest.raises(StageError, match="500 clusters of 400 points"):
        how.fit(x, 500, seed=0)
    np.testing.assert_allclose(
        how.fit(x[:200], 1, seed=1)[0], x[:200].mean(0), atol=1e-3
    )  # a frame of background alone
    alike = how.fit(np.ones((50, 6), np.float32), 3, seed=1)
    assert np.isfinite(alike).all() and set(nearest(np.ones((5, 6), np.float32), alike)) <= {0, 1, 2}


def test_training_points_are_drawn_without_replacement() -> None:
    chosen = draws(np.full(7, 10), 25, seed=3)
    numbers = [10 * i + int(p) for i, own in enumerate(chosen) for p in own]
    assert len(numbers) == len(set(numbers)) == 25 and numbers == sorted(numbers) and max(numbers) < 70
    assert all(0 <= p < 10 for own in chosen for p in own)
    assert [own.tolist() for own in draws(np.full(2, 3), 100, seed=0)] == [[0, 1, 2], [0, 1, 2]]


def test_centroids_of_many_pictures_see_the_drawn_points_only() -> None:
    x = features(120, 3).reshape(6, 20, 3)
    asked: list[int] = []

    def points(number: int) -> np.ndarray:
        asked.append(number)
        return x[number]

    how = KMeans(5, 1, points_per_centroid=10)
    found = centroids_of(points, np.full(6, 20), 2, how, seed=4)
    drawn = np.concatenate([x[i][own] for i, own in enumerate(draws(np.full(6, 20), 20, seed=4))])
    np.testing.assert_array_equal(found, how.fit(drawn, 2, seed=4))
    assert asked == sorted(set(asked))


def test_enlarging() -> None:
    import torch
    import torch.nn.functional as F

    grid = np.random.default_rng(0).integers(0, 9, (7, 5))
    expected = F.interpolate(torch.from_numpy(grid)[None, None].float(), size=(20, 20), mode="nearest")[0, 0].numpy()
    np.testing.assert_array_equal(enlarged(grid, 20), expected)
    maps = np.random.default_rng(1).normal(size=(2, 3, 4, 2)).astype(np.float32)
    large = upsampled(maps, 9)
    for i, j in np.ndindex(9, 9):  # bilinear at half-pixel centres, borders repeated
        y, x = max((i + 0.5) * 3 / 9 - 0.5, 0), max((j + 0.5) * 4 / 9 - 0.5, 0)
        top, left = int(y), int(x)
        bottom, right, b, a = min(top + 1, 2), min(left + 1, 3), y - top, x - left
        expected = (1 - b) * ((1 - a) * maps[:, top, left] + a * maps[:, top, right])
        expected = expected + b * ((1 - a) * maps[:, bottom, left] + a * maps[:, bottom, right])
        np.testing.assert_allclose(large[:, i, j], expected, atol=1e-6)
