"""Filling the retrieval memory with an encoder's patches, and asking it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.common.errors import StageError
from components.common.progress import Progress
from components.evaluate.augment import Augment, augmented
from components.evaluate.features import FeatureBank
from components.evaluate.images import ahead, read_index, read_rgb
from components.evaluate.layouts.voc import VOID, Segmentation
from components.evaluate.memory import (
    Features,
    Memory,
    MemoryFile,
    nearest_keys,
    nearest_keys_on,
    patch_labels,
    rare_first,
    unit,
    vote,
)
from components.evaluate.segmentation_score import check_labels
from components.evaluate.stills import square, square_labels

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Filling:
    """How the memory is filled.

    Attributes:
        side: pictures enter as squares of so many pixels.
        patch: pixels of a patch.
        n_classes: labels are 0..n_classes-1; void becomes 0.
        limit: patches in the memory at most; None takes all.
        epochs: passes over the list.
        augment: random crops and colours; None takes whole pictures.
        seed: of crops, colours and of which patches are taken.
        batch, workers: pictures a forward pass, and threads that read.
    """

    side: int
    patch: int
    n_classes: int
    limit: int | None
    epochs: int
    augment: Augment | None
    seed: int
    batch: int
    workers: int

    def quota(self, pictures: int) -> int:
        """Patches of each picture and pass; StageError where the limit leaves none."""
        patches = (self.side // self.patch) ** 2
        quota = patches if self.limit is None else min(self.limit // (pictures * self.epochs), patches)
        if not quota:
            what = f"a memory of {self.limit} patches has no place for one of each picture"
            raise StageError(what, do=f"{pictures} pictures and {self.epochs} epochs need {pictures * self.epochs}")
        return quota

    def look(self, number: int, data: Segmentation) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Picture and labels `number`, counted through all passes."""
        image, mask = (files[number % len(data.names)] for files in (data.images, data.masks))
        if self.augment is None:
            pixels, labels = square(image, self.side), square_labels(mask, self.side, self.n_classes)
        else:
            truth = read_index(mask)
            check_labels(truth[truth != VOID], self.n_classes, mask)
            rng = np.random.default_rng((self.seed, number, 0))
            pixels, labels = augmented(read_rgb(image), Image.fromarray(truth), self.side, self.augment, rng)
        return pixels, np.where(labels == VOID, np.uint8(0), labels)


def fill(
    folder: Path, data: Segmentation, forward: Forward, dim: int, how: Filling, device: str, progress: Progress
) -> Memory:
    """The memory of a split, in `folder`; goes on where an earlier call was stopped.

    Args:
        forward: uint8 batch (B, H, W, 3) -> patch grids (B, h, w, dim).
        progress: counts pictures, over all passes.
    """
    total = len(data.names) * how.epochs
    file = MemoryFile(folder, total, how.quota(len(data.names)), dim, how.n_classes)
    progress.update(file.done)
    batches = [range(start, min(start + how.batch, total)) for start in range(file.done, total, how.batch)]
    looks = ahead(lambda batch: [how.look(number, data) for number in batch], batches, how.workers)
    for batch, pairs in zip(batches, looks, strict=True):
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in pairs])).to(device)
        features = forward(pixels).flatten(1, 2).float().cpu().numpy()
        seen = zip(batch, features, pairs, strict=True)
        file.add(_chosen(number, rows, labels, how, file.quota) for number, rows, (_, labels) in seen)
        progress.update(len(batch))
    return file.memory()


def _chosen(
    number: int, features: Features, labels: NDArray[np.uint8], how: Filling, quota: int
) -> tuple[Features, Features]:
    shares = patch_labels(labels, how.patch, how.n_classes)
    rows = rare_first(shares, quota, np.random.default_rng((how.seed, number, 1)))
    return unit(features[rows]), shares[rows]


@dataclass(frozen=True)
class Asking:
    """How the memory answers: neighbours, softmax temperature, device, and keys on the device at once."""

    neighbours: int
    temperature: float
    device: str
    chunk_rows: int


def answers(
    bank: FeatureBank, numbers: Sequence[int], memory: Memory, how: Asking
) -> tuple[Features, NDArray[np.int64]]:
    """Votes (n, h, w, C) of some pictures' patches, and the memory's rows (n, h, w, k) that voted."""
    grids = bank.rows(np.array(numbers))
    queries = unit(grids.reshape(-1, grids.shape[-1]))
    if how.device == "cpu":
        values, rows = nearest_keys(queries, memory.keys, how.neighbours)
    else:
        values, rows = nearest_keys_on(how.device, queries, memory.keys, how.neighbours, how.chunk_rows)
    votes = vote(values, memory.labels[rows], how.temperature)
    return votes.reshape(*grids.shape[:3], -1), rows.reshape(*grids.shape[:3], -1)
