"""From patch features to clusters: standardise, reduce, cluster by k-means.

As TimeT (arXiv:2308.11796) and Leopart (arXiv:2204.13101) evaluate: a standard scaler over all rows at hand, PCA to 50
dimensions, faiss's k-means with restarts. Rows come in chunks and are never all in memory: the reduction needs sums
alone, and k-means looks at 256 points a centroid at most, faiss's own default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError

Points = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class KMeans:
    """faiss's k-means on L2 distances.

    Attributes:
        niter: iterations of each start.
        nredo: starts; the one of least distortion is kept.
        points_per_centroid: more training points than so many are drawn from.
        spherical: centroids are normalised after each iteration.
    """

    niter: int
    nredo: int
    points_per_centroid: int = 256
    spherical: bool = False

    def fit(self, points: Points, k: int, seed: int) -> Points:
        """(k, D) centroids of (N, D) points, N >= k."""
        import faiss

        if len(points) < k:
            raise StageError(
                f"{k} clusters of {len(points)} points", do="ask for fewer clusters, or give more pictures"
            )
        how = faiss.Kmeans(
            points.shape[1],
            k,
            niter=self.niter,
            nredo=self.nredo,
            seed=seed,
            spherical=self.spherical,
            max_points_per_centroid=self.points_per_centroid,
            min_points_per_centroid=1,  # faiss warns below 39, which says nothing to a reader of small benchmarks
        )
        how.train(np.ascontiguousarray(points, np.float32))
        return np.asarray(how.centroids)

    def train_size(self, k: int) -> int:
        """Training points that k centroids look at."""
        return k * self.points_per_centroid


def nearest(points: Points, centroids: Points) -> Numbers:
    """(N,) number of the closest centroid (L2)."""
    import faiss

    _, found = faiss.knn(np.ascontiguousarray(points, np.float32), centroids, 1)
    return np.asarray(found[:, 0], np.int64)


@dataclass(frozen=True)
class Reduction:
    """Standard scaler and PCA in one: y = (x - mean) @ weights.

    Attributes:
        mean: (D,).
        weights: (D, d), each column a principal axis of the standardised features, divided by their deviations.
    """

    mean: NDArray[np.float64]
    weights: NDArray[np.float64]

    def __call__(self, features: NDArray[np.float32]) -> Points:
        """(..., D) -> (..., d) float32."""
        return ((features - self.mean) @ self.weights).astype(np.float32)


def kept_notes(dim: int, pca_dims: int) -> list[str]:
    """A note where features are no wider than what PCA would leave of them."""
    return [f"features of {dim} dimensions are all kept"] if dim < pca_dims else []


def reduction(chunks: Iterable[NDArray[np.float32]], dims: int) -> Reduction:
    """Scaler and PCA of all rows, in one pass over them.

    The covariance of standardised features is the correlation matrix, and that follows from the sums of x and of x x^T
    (float64, about the first chunk's mean). Equal to a StandardScaler followed by a PCA but for the axes' signs.

    Args:
        chunks: rows (n, D), together one at least.
        dims: axes to keep; all D where the features have fewer.

    Raises:
        StageError: a feature is not finite.
    """
    n, shift, total, products = 0, None, np.zeros(1), np.zeros((1, 1))
    for chunk in chunks:
        rows = chunk.astype(np.float64)
        if shift is None:
            shift, total, products = rows.mean(0), np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        rows -= shift
        n, total, products = n + len(rows), total + rows.sum(0), products + rows.T @ rows
    assert shift is not None, "no features"
    if not np.isfinite(products).all():
        raise StageError("features are not finite", do="look at the encoder's weights")
    mean = total / n
    covariance = products / n - np.outer(mean, mean)
    variance = np.diag(covariance)
    still = variance <= np.finfo(np.float32).eps ** 2 * (shift + mean) ** 2  # a constant feature is not scaled
    deviation = np.sqrt(np.where(still, 1.0, variance))
    axes = np.linalg.eigh(covariance / np.outer(deviation, deviation))[1][:, ::-1][:, :dims]
    axes *= np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)  # one sign on every machine
    return Reduction(shift + mean, axes / deviation[:, None])


def draws(counts: Numbers, wanted: int, seed: int) -> list[Numbers]:
    """Which points of each picture k-means is trained on: `wanted` of all, drawn without replacement, in order.

    Args:
        counts: (n,) points that each picture has.
    """
    edges = np.concatenate([[0], np.cumsum(counts)])
    total = int(edges[-1])
    rng = np.random.default_rng(seed)
    chosen = np.arange(total) if total <= wanted else np.sort(rng.choice(total, wanted, replace=False))
    at = np.searchsorted(chosen, edges)
    return [chosen[at[i] : at[i + 1]] - edges[i] for i in range(len(counts))]


def centroids_of(points: Callable[[int], Points], counts: Numbers, k: int, how: KMeans, seed: int) -> Points:
    """k-means over the points of many pictures, of which only the drawn ones are kept.

    Args:
        points: picture number -> its (N, D) points; asked once for each picture that has drawn ones.
        counts: (n,) N of each picture.
    """
    drawn = draws(counts, how.train_size(k), seed)
    train = [points(number)[chosen] for number, chosen in enumerate(drawn) if len(chosen)]
    return how.fit(np.concatenate(train), k, seed)


def upsampled(grids: Points, side: int) -> Points:
    """(B, h, w, d) grids bilinearly interpolated to (B, side, side, d)."""
    import torch
    import torch.nn.functional as F

    maps = torch.from_numpy(np.ascontiguousarray(grids)).permute(0, 3, 1, 2)
    large = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(large.permute(0, 2, 3, 1).numpy())


def enlarged(grid: NDArray[Any], side: int) -> NDArray[Any]:
    """An (h, w) map enlarged to (side, side) by the nearest cell, as F.interpolate takes it: floor(i * h / side)."""
    rows, columns = (np.arange(side) * n // side for n in grid.shape)
    return grid[rows[:, None], columns]
