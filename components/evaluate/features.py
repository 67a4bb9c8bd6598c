"""Frozen features of many pictures, kept on disk batch by batch so that a killed evaluation goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.common.encoder import Encoder
from components.common.errors import StageError
from components.common.outputs import atomic_file
from components.evaluate.feature_store import Look, Transform
from components.evaluate.images import ahead
from components.evaluate.task import Job, TaskParams

Features = NDArray[np.float32]


class FeatureBank:
    """Features on disk, one `.npy` per batch of pictures, memory-mapped: reading rows costs only those rows."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts: list[Features] = [np.load(part, mmap_mode="r", allow_pickle=False) for part in parts]
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, numbers: NDArray[np.int64]) -> Features:
        """Features of these pictures, in this order."""
        part_of = np.searchsorted(self.starts, numbers, side="right") - 1
        found = [self.parts[p][n - self.starts[p]] for p, n in zip(part_of, numbers, strict=True)]
        return np.stack(found)

    def chunks(self, n_rows: int) -> Iterator[Features]:
        """All rows in order, at least `n_rows` (but for the last chunk) at a time."""
        waiting: list[Features] = []
        for part in self.parts:
            waiting.append(part)
            if sum(map(len, waiting)) >= n_rows:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)


def extract(
    files: Sequence[Path],
    look: Look,
    forward: Callable[[Tensor], Tensor],
    folder: Path,
    args: TaskParams,
    job: Job,
    transform: Transform | None = None,
) -> FeatureBank:
    """Features of every file.

    Args:
        files: pictures.
        look: reads one and brings it to the network's size, (H, W, 3) uint8.
        forward: uint8 batch (B, H, W, 3) -> features (B, ...).
        folder: where the batches are kept; batches found there are not computed again.
        transform: what `look` and `forward` do, in words and numbers. With it the batches are kept where every task
            that wants the same features finds them (see feature_store.py), and not in `folder`.

    Raises:
        StageError: a picture is missing or no picture; the features are not finite.
    """
    store = job.features if transform is not None else None
    if store is not None and transform is not None:
        folder = store.open(store.key(files, look, transform, args.batch_images, args.workers))
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(files), args.batch_images)
    parts = [folder / f"{number:06d}.npy" for number in range(len(starts))]
    todo = [(files[start : start + args.batch_images], part) for start, part in zip(starts, parts, strict=True)]
    _compute([(batch, part) for batch, part in todo if not part.exists()], look, forward, args, job)
    bank = FeatureBank(parts)
    if store is not None and transform is not None:
        store.filled(folder, transform, len(files))  # the files are open: an entry removed from now on stays readable
    return bank


def _compute(
    todo: Sequence[tuple[Sequence[Path], Path]],
    look: Look,
    forward: Callable[[Tensor], Tensor],
    args: TaskParams,
    job: Job,
) -> None:
    """Features of each batch of pictures into its file."""
    pixels = ahead(lambda item: np.stack([look(file) for file in item[0]]), todo, args.workers)
    with job.progress(sum(len(batch) for batch, _ in todo), "img") as progress:
        for batch, part in todo:
            features = forward(torch.from_numpy(next(pixels)).to(job.device)).float()
            if not torch.isfinite(features).all():
                raise StageError("the encoder's features are not finite", where=f"{job.name}, {batch[0]} and on")
            save(part, features.cpu().numpy())
            progress.update(len(batch))


def save(file: Path, array: NDArray) -> None:
    """Write an array whole or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    with atomic_file(file) as partial:
        partial.write_bytes(content.getvalue())


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, H, W, 3) -> normalised float32 (B, 3, H, W)."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    look = torch.tensor([mean, std], dtype=torch.float32, device=images.device)[..., None, None]
    return (images - look[0]) / look[1]


def image_features(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """uint8 batch -> class tokens (B, D) after the final norm."""
    return lambda pixels: encoder.cls(normalised(pixels, encoder.mean, encoder.std))


def mean_features(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """uint8 batch -> means of patch tokens (B, D) after the final norm."""
    patches = patch_features(encoder)
    return lambda pixels: patches(pixels).mean(dim=(1, 2))


def patch_features(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """uint8 batch -> patch grid (B, h, w, D) after the final norm."""
    return lambda pixels: encoder.patches(normalised(pixels, encoder.mean, encoder.std))
