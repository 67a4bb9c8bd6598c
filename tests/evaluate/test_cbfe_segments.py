"""Segments of a foreground, against a rendition with scikit-learn that holds every pixel at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.evaluate.cbfe_segments import Segmenter, Segments
from components.evaluate.clustering import KMeans
from components.evaluate.features import FeatureBank, save
from components.evaluate.image_clusters import score_maps
from tests.evaluate.small import evaluate, voc

HOW = KMeans(niter=10, nredo=2)
N, GRID, SIDE, DIM = 4, 3, 7, 8


def scene(folder: Path) -> tuple[FeatureBank, np.ndarray, np.ndarray]:
    """Grids of three kinds of patches and noise, masks, and each pixel's feature."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(0, 3, (3, DIM))
    grids = (kinds[rng.integers(0, 3, (N, GRID, GRID))] + rng.normal(0, 0.1, (N, GRID, GRID, DIM))).astype(np.float32)
    save(folder / "0.npy", grids)
    at = np.arange(SIDE) * GRID // SIDE
    return FeatureBank([folder / "0.npy"]), rng.random((N, SIDE, SIDE)) < 0.6, grids[:, at][:, :, at]


def naive(pixels: np.ndarray, masks: np.ndarray, kind: str, k: int) -> np.ndarray:
    """Clusters (N, S, S) by scaler, PCA and the distances to the centroids that our k-means finds for these points."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    if kind == "zeroed":
        rows, where = (pixels * masks[..., None]).reshape(-1, DIM), np.ones_like(masks)
    else:
        rows, where = pixels[masks], masks
    reduced = PCA(5).fit_transform(StandardScaler().fit_transform(rows.astype(np.float64))).astype(np.float32)
    centroids = HOW.fit(reduced, k, seed=3)
    out = np.zeros(masks.shape, int)
    out[where] = ((reduced[:, None] - centroids) ** 2).sum(-1).argmin(1) + (kind == "foreground")
    return out


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = {(int(x), int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)}
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


@pytest.mark.parametrize("kind", ["zeroed", "foreground"])
def test_the_same_groups_as_with_all_pixels_in_memory(kind: Segments, tmp_path: Path) -> None:
    bank, masks, pixels = scene(tmp_path)
    masks[2] = False  # a picture without a foreground
    found = np.stack(list(Segmenter(bank, masks, kind, 4, HOW, 5).maps(seed=3)))
    expected = naive(pixels, masks, kind, 4 if kind == "zeroed" else 3)
    assert same_partition(found, expected)
    if kind == "foreground":
        assert np.array_equal(found == 0, ~masks)
    else:
        assert len(np.unique(found[~masks])) == 1


def test_little_and_no_foreground(tmp_path: Path) -> None:
    bank, masks, _ = scene(tmp_path)
    masks[:] = False
    assert not np.stack(list(Segmenter(bank, masks, "foreground", 4, HOW, 5).maps(0))).any()
    masks[1, 2, :2] = True  # two pixels, three clusters asked for
    found = np.stack(list(Segmenter(bank, masks, "foreground", 4, HOW, 5).maps(0)))
    assert np.array_equal(found > 0, masks)


@pytest.mark.parametrize("protocol", ["timet", "leopart"])
def test_in_the_task(protocol: str, model: Path, tmp_path: Path) -> None:
    root, changes = voc(tmp_path / "b"), {"protocol": protocol, "average": "present"}
    assert evaluate(tmp_path, "foreground", model, root, **changes) == 0
    document: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    figures = []
    for seed in [1] if protocol == "timet" else range(5):
        files = [
            (root / f"SegmentationClass/val{i}.png", tmp_path / f"out/segments/seed{seed}/val{i}.png") for i in range(3)
        ]
        figures.append(score_maps(files, 4, "hungarian", "present").miou)
    assert document["metrics"]["miou_segments"] == pytest.approx(np.mean(figures))
    assert ("miou_segments_std" in document["metrics"]) == (protocol == "leopart")
    rows = pq.read_table(tmp_path / "out/segments.parquet").to_pylist()
    assert np.mean([row["miou_segments"] for row in rows]) == pytest.approx(np.mean(figures))
    with Image.open(tmp_path / "out/foreground.png") as picture:
        assert picture.width > 900  # five columns
    assert evaluate(tmp_path, "foreground", model, root, out="off", segments="none", **changes) == 0
    assert not (tmp_path / "off/segments").exists()
