"""Random crops of a share of the picture's area: the geometry of torchvision's RandomResizedCrop."""

from __future__ import annotations

import math

import numpy as np

TRIES = 10  # then the largest central crop of an allowed shape
Box = tuple[int, int, int, int]  # top, left, height, width


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box whose share of the area is uniform in `scale` and whose width / height is log-uniform in `ratio`."""
    narrow, wide = (math.log(limit) for limit in ratio)
    for _ in range(TRIES):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(narrow, wide))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - h) // 2, (width - w) // 2, h, w
