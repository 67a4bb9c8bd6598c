"""The centre crop of classification protocols, and its feature pass, which k-NN and the linear probe share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.evaluate.feature_store import Transform
from components.evaluate.images import read_rgb
from components.evaluate.task import Job, TaskParams

if TYPE_CHECKING:
    from torch import Tensor

    from components.evaluate.features import FeatureBank


def centre_crop(file: Path, resize_px: int, crop_px: int) -> NDArray[np.uint8]:
    """Short side to `resize_px` (bicubic, the long side rounded down), then the centre `crop_px` square."""
    image = read_rgb(file)
    short = min(image.size)
    size = (image.width * resize_px // short, image.height * resize_px // short)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - crop_px) / 2) for side in size)
    return np.array(image.crop((left, top, left + crop_px, top + crop_px)))


def crop_features(
    files: Sequence[Path],
    px: tuple[int, int],
    forward: Callable[[Tensor], Tensor],
    takes: str,
    folder: Path,
    args: TaskParams,
    job: Job,
) -> FeatureBank:
    """Features of the centre crop of every file.

    Args:
        px: short side after the resize, side of the crop.
        forward: uint8 batch (B, H, W, 3) -> features (B, D).
        takes: what `forward` gives, in words: the same words share one pass over the same pictures.
        folder: keeps them where nothing is shared.
    """
    from components.evaluate.features import extract

    how = Transform("short side (bicubic), centre crop", px, takes)
    return extract(files, lambda file: centre_crop(file, *px), forward, folder, args, job, how)
