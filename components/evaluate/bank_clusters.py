"""One clustering over the patches of one or several splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.evaluate.clustering import KMeans, Points, centroids_of, nearest, reduction
from components.evaluate.features import FeatureBank


def cluster_banks(
    banks: Sequence[FeatureBank], cells: NDArray[np.int64], k: int, how: KMeans, dims: int, seed: int
) -> NDArray[np.int64]:
    """Clusters (n, h, w) of all patches of all pictures, after one scaler and PCA; one picture in memory at a time.

    Args:
        banks: patch grids (h, w, D) of each split.
        cells: numbers of the patches that k-means is trained on, one a training point: each patch once, or as often
            as it has pixels on a map.
        k, how, seed: k-means.
        dims: kept by the PCA.
    """
    grid = banks[0].rows(np.array([0])).shape[1:3]
    reduce = reduction((c.reshape(-1, c.shape[-1]) for bank in banks for c in bank.chunks(1)), dims)
    places = [(bank, number) for bank in banks for number in range(len(bank))]

    def patches(number: int) -> Points:
        bank, own = places[number]
        features = bank.rows(np.array([own]))[0]
        return reduce(features.reshape(-1, features.shape[-1]))

    centroids = centroids_of(lambda i: patches(i)[cells.ravel()], np.full(len(places), cells.size), k, how, seed)
    return np.stack([nearest(patches(i), centroids).reshape(grid) for i in range(len(places))])
