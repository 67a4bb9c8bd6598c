"""A bounded memory of labelled patches, and dense retrieval from it (Balazevic et al., arXiv:2306.01667).

The memory is one preallocated array on disk, mapped into the process and filled picture by picture, so that it is as
large as it may become from the start, and a killed run goes on at the picture where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.outputs import write_text

Features = NDArray[np.float32]


def patch_labels(labels: NDArray[np.uint8], patch: int, n_classes: int) -> Features:
    """(N, C) share of each class in each patch of a label map (S, S), S a multiple of `patch`; labels are classes."""
    side = len(labels) // patch
    cells = labels.reshape(side, patch, side, patch).transpose(0, 2, 1, 3).reshape(side * side, -1)
    place = np.arange(len(cells))[:, None] * n_classes + cells
    counts = np.bincount(place.ravel(), minlength=len(cells) * n_classes)
    return (counts.reshape(-1, n_classes) / patch**2).astype(np.float32)


def rare_first(labels: Features, quota: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of `quota` patches of a picture, those with rare classes more likely.

    A patch's score is the sum, over the classes in it, of the number of patches that hold the class, times a uniform
    draw; the lowest scores are taken.
    """
    holds = labels > 0
    score = (holds @ holds.sum(0)) * rng.random(len(labels))
    return np.sort(np.argsort(score, kind="stable")[:quota])


def unit(features: Features) -> Features:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


@dataclass(frozen=True)
class Memory:
    """Patches that answer.

    Attributes:
        keys: (M, D), rows of length 1.
        labels: (M, C), rows of sum 1.
        quota: patches a picture; row r comes from picture r // quota.
    """

    keys: Features
    labels: Features
    quota: int


class MemoryFile:
    """The memory on disk while it is filled.

    Args:
        folder: made where it is missing; what a killed run left there is taken up.
        pictures: how many pictures will be written.
        quota: patches a picture.
        dim, n_classes: widths of keys and labels.
    """

    def __init__(self, folder: Path, pictures: int, quota: int, dim: int, n_classes: int) -> None:
        self.folder, self.pictures, self.quota = folder, pictures, quota
        folder.mkdir(parents=True, exist_ok=True)
        self._count = folder / "pictures.json"
        self.done = int(json.loads(self._count.read_text(encoding="utf-8"))) if self._count.exists() else 0
        mode = "r+" if self.done else "w+"
        shapes = {"keys": (pictures * quota, dim), "labels": (pictures * quota, n_classes)}
        self._arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=np.float32, shape=shape)  # type: ignore[arg-type]
            for name, shape in shapes.items()
        }

    def add(self, chosen: Iterable[tuple[Features, Features]]) -> None:
        """Keys (quota, D) and labels (quota, C) of the next pictures."""
        for keys, labels in chosen:
            rows = slice(self.done * self.quota, (self.done + 1) * self.quota)
            self._arrays["keys"][rows], self._arrays["labels"][rows] = keys, labels
            self.done += 1
        for array in self._arrays.values():
            array.flush()
        write_text(self._count, f"{self.done}\n")

    def memory(self) -> Memory:
        """The filled memory, as a view of the file."""
        assert self.done == self.pictures, "the memory is not full"
        return Memory(self._arrays["keys"], self._arrays["labels"], self.quota)


def nearest_keys(queries: Features, keys: Features, k: int) -> tuple[Features, NDArray[np.int64]]:
    """The k largest inner products of each query (Q, D), and their rows: exact, nothing of the memory is copied."""
    import faiss

    values, rows = faiss.knn(queries, keys, min(k, len(keys)), metric=faiss.METRIC_INNER_PRODUCT)
    return values, rows


def nearest_keys_on(
    device: str, queries: Features, keys: Features, k: int, chunk_rows: int
) -> tuple[Features, NDArray[np.int64]]:
    """The same by torch on a device, `chunk_rows` keys there at once."""
    import torch

    k, asked = min(k, len(keys)), torch.from_numpy(queries).to(device)
    values = torch.full((len(queries), 0), 0.0, device=device)
    rows = torch.zeros((len(queries), 0), dtype=torch.long, device=device)
    for start in range(0, len(keys), chunk_rows):
        part = torch.from_numpy(np.array(keys[start : start + chunk_rows])).to(device)
        found = (asked @ part.T).topk(min(k, len(part)), dim=1)
        values, rows = torch.cat([values, found.values], 1), torch.cat([rows, found.indices + start], 1)
        values, order = values.topk(min(k, values.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return values.cpu().numpy(), rows.cpu().numpy()


def vote(values: Features, labels: Features, temperature: float) -> Features:
    """(Q, C) labels of the neighbours (Q, k, C), weighted by a softmax of their similarities (Q, k)."""
    scaled = (values - values.max(1, keepdims=True)) / temperature
    weights = np.exp(scaled)
    weights /= weights.sum(1, keepdims=True)
    return np.asarray(np.einsum("qk,qkc->qc", weights, labels), np.float32)
