"""What a method sees, as pictures for people."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from torch import Tensor

from components.common.vit import IMAGENET_MEAN, IMAGENET_STD

GOLDEN = 0.618034  # of the colour circle: neighbours in number are far apart in hue, however many there are


def pixels(images: Tensor) -> Tensor:
    """Normalised images (..., 3, H, W) as values from 0 to 1."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean).clamp(0, 1)


def label_frames(frames: Tensor, labels: Tensor) -> list[np.ndarray]:
    """Each frame, and beside it the frame under its labels' colours.

    Args:
        frames: (T, 3, S, S) normalised.
        labels: int (T, N) of N = n * n patches.

    Returns:
        T uint8 RGB arrays (S, 2 S, 3); a label has one colour in all of them.
    """
    size, side = frames.shape[-1], round(labels.shape[-1] ** 0.5)
    seen = pixels(frames)
    colours = torch.tensor([label_colour(i) for i in range(int(labels.max()) + 1)])
    cells = colours[labels.unflatten(-1, (side, side))].permute(0, 3, 1, 2)  # (T, 3, n, n)
    over = cells.repeat_interleave(size // side, dim=-1).repeat_interleave(size // side, dim=-2)
    rows = torch.cat([seen, 0.5 * (seen + over)], dim=-1)
    return list((rows * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def label_colour(label: int) -> tuple[float, float, float]:
    """Red, green and blue of a label, 0 to 1."""
    return colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.9 if label % 2 else 0.6, 1.0)
