"""Unsupervised segmentation within a foreground, the last step of CBFE (Leopart, arXiv:2204.13101, section 3.3).

Two ways: `zeroed` (TimeT's code) sets the features of the background to zero and clusters every pixel; `foreground`
(Leopart) clusters the pixels of the foreground alone, and the background is a cluster of its own. Either way a pixel
of the map has its patch's feature (the nearest cell), and a scaler and PCA are fitted to the pixels that are clustered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.evaluate.cbfe import Mask
from components.evaluate.cluster_maps import write_folder
from components.evaluate.clustering import KMeans, Points, centroids_of, enlarged, nearest, reduction
from components.evaluate.features import FeatureBank

Segments = Literal["zeroed", "foreground"]


@dataclass(frozen=True)
class Segmenter:
    """Pixels of pictures, and how they are clustered.

    Attributes:
        bank: patch grids (h, w, D) of each picture.
        masks: (n, S, S) foreground of each picture on the map.
        kind: see above.
        clusters: in all, the background's own included; fewer where the foreground has not as many pixels.
        kmeans, dims: k-means, and dimensions that PCA keeps.
    """

    bank: FeatureBank
    masks: Mask
    kind: Segments
    clusters: int
    kmeans: KMeans
    dims: int

    def write(self, names: Sequence[str], seed: int, folder: Path) -> Path:
        """folder/seed<n>/<name>.png, unless it is there; returns that folder."""
        own = folder / f"seed{seed}"
        if not own.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            write_folder(own, zip(names, self.maps(seed), strict=True))
        return own

    def maps(self, seed: int) -> Iterator[NDArray[np.int64]]:
        """(S, S) clusters of each picture; with `foreground` 0 is the background."""
        counts = np.array([self._pixels(mask) for mask in self.masks])
        apart = int(self.kind == "foreground")
        k = min(self.clusters - apart, int(counts.sum()))
        if not k:
            yield from (np.zeros(mask.shape, np.int64) for mask in self.masks)
            return
        reduce = reduction((self._rows(i) for i in np.flatnonzero(counts).tolist()), self.dims)
        centroids = centroids_of(lambda i: reduce(self._rows(i)), counts, k, self.kmeans, seed)
        for number, mask in enumerate(self.masks):
            found = np.zeros(mask.shape, np.int64)
            if counts[number]:
                where = mask if apart else np.ones_like(mask)
                found[where] = nearest(reduce(self._rows(number)), centroids) + apart
            yield found

    def _pixels(self, mask: Mask) -> int:
        return mask.size if self.kind == "zeroed" else int(np.count_nonzero(mask))

    def _rows(self, number: int) -> Points:
        """(N, D) features of the picture's pixels that are clustered."""
        grid, mask = self.bank.rows(np.array([number]))[0], self.masks[number]
        cells = enlarged(np.arange(grid.shape[0] * grid.shape[1]).reshape(grid.shape[:2]), len(mask))
        rows = grid.reshape(-1, grid.shape[-1])[cells[mask] if self.kind == "foreground" else cells.ravel()]
        if self.kind == "zeroed":
            rows[~mask.ravel()] = 0
        return np.asarray(rows)
