"""Which pictures the linear probe learns from, and their features batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.common.errors import StageError
from components.evaluate.crops import random_box
from components.evaluate.features import FeatureBank
from components.evaluate.images import ahead, read_rgb
from components.evaluate.layouts.imagenet import Labelled
from components.evaluate.linear_params import LinearParams
from components.evaluate.seeds import rng_of
from components.evaluate.task import Job


def split(train: Labelled, args: LinearParams) -> tuple[Labelled, Labelled]:
    """(learnt from, held out): of every class with two pictures or more its share is held out, at least one."""
    labels = np.array(train.labels)
    held = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        n = min(max(1, round(args.held_out_share * len(own))), len(own) - 1)
        held[rng_of(args.seed, 2, int(number)).permutation(own)[:n]] = True
    if not held.any():
        raise StageError("every class has one training picture, none can be held out to choose by")
    learnt, kept = (
        Labelled([train.files[i] for i in part], [train.labels[i] for i in part])
        for part in (np.flatnonzero(~held), np.flatnonzero(held))
    )
    return learnt, kept


def view(file: Path, side: int, args: LinearParams, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random resized crop (bilinear), mirrored by chance."""
    image = read_rgb(file)
    top, left, height, width = random_box(image.height, image.width, args.crop_scale, args.crop_ratio, rng)
    crop = image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.array(crop)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < args.flip else pixels


def augmented_batches(
    data: Labelled, order: NDArray[np.int64], epoch: int, side: int, forward: Any, args: LinearParams, job: Job
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels of fresh views; a view depends on (seed, epoch, picture) alone."""
    batches = [order[i : i + args.batch_size] for i in range(0, len(order), args.batch_size)]
    parts = [part[i : i + args.batch_images] for part in batches for i in range(0, len(part), args.batch_images)]
    pixels = ahead(
        lambda part: np.stack([view(data.files[i], side, args, rng_of(args.seed, 1, epoch, i)) for i in part.tolist()]),
        parts,
        args.workers,
    )
    for batch in batches:
        features = [
            forward(torch.from_numpy(next(pixels)).to(job.device)) for _ in range(0, len(batch), args.batch_images)
        ]
        yield torch.cat(features).float(), torch.tensor([data.labels[i] for i in batch], device=job.device)


def cached_batches(
    bank: FeatureBank, data: Labelled, order: NDArray[np.int64], args: LinearParams, job: Job
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same features in every epoch, in another order."""
    for i in range(0, len(order), args.batch_size):
        batch = order[i : i + args.batch_size]
        labels = torch.tensor([data.labels[n] for n in batch], device=job.device)
        yield torch.from_numpy(bank.rows(batch)).to(job.device), labels


def labelled_chunks(bank: FeatureBank, data: Labelled, args: LinearParams, job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels in order."""
    labels, start = torch.tensor(data.labels), 0
    for chunk in bank.chunks(args.chunk_rows):
        yield torch.from_numpy(chunk).to(job.device), labels[start : start + len(chunk)].to(job.device)
        start += len(chunk)
