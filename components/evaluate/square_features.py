"""Patch features of pictures brought to a square: the one feature pass of the clustering and retrieval tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from components.common.encoder import Encoder
from components.evaluate.feature_store import Transform
from components.evaluate.features import FeatureBank, extract, patch_features
from components.evaluate.stills import square
from components.evaluate.task import Job, TaskParams


def square_patches(
    encoder: Encoder,
    files: Sequence[Path],
    side: int,
    name: str,
    args: TaskParams,
    job: Job,
    forward: Callable[[Tensor], Tensor] | None = None,
    takes: str = "patches",
) -> FeatureBank:
    """Patch grids (h, w, D) of every file, resized to (side, side).

    Args:
        name: of the folder in the job's cache that keeps them.
        forward: uint8 batch -> features, where they are not the encoder's patches with its own normalisation.
        takes: what `forward` gives, in words: the same words share one pass over the same pictures.
    """
    look, taken = (lambda file: square(file, side)), forward or patch_features(encoder)
    how = Transform("square (bilinear)", (side,), takes)
    return extract(files, look, taken, job.cache / name, args, job, how)
