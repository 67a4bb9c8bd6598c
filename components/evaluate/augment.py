"""The pictures that fill the retrieval memory: one random crop for picture and labels, mild colour jitter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

TRIES = 10  # for a crop that lies inside the picture; then the centre is taken


@dataclass(frozen=True)
class Augment:
    """open-hummingbird-eval's training transforms.

    Attributes:
        scale: share of the picture's area in the crop: least, most; above 1 few draws lie inside.
        ratio: width over height: least, most.
        jitter: strength of each of brightness, contrast, saturation (factors 1 - j to 1 + j) and hue (-j to j turns).
        jitter_p: chance of each of the four.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    jitter: float
    jitter_p: float


def augmented(
    image: Image.Image, labels: Image.Image, side: int, how: Augment, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture (side, side, 3), bilinear, and its labels (side, side), nearest, of the same crop."""
    image = jittered(image, how, rng)
    box = crop_box(image.width, image.height, how, rng)
    large, small = image.crop(box), labels.crop(box)
    size = (side, side)
    return np.array(large.resize(size, Image.Resampling.BILINEAR)), np.array(
        small.resize(size, Image.Resampling.NEAREST)
    )


def jittered(image: Image.Image, how: Augment, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue, each by its own chance, in this order."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if rng.random() < how.jitter_p:
            image = enhancer(image).enhance(rng.uniform(1 - how.jitter, 1 + how.jitter))
    if rng.random() < how.jitter_p:
        turn = int(rng.uniform(-how.jitter, how.jitter) * 255) % 256
        hsv = np.array(image.convert("HSV"))
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + turn) % 256
        image = Image.fromarray(hsv, mode="HSV").convert("RGB")
    return image


def crop_box(width: int, height: int, how: Augment, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop; after ten that do not fit, the largest central one allowed."""
    for _ in range(TRIES):
        area = width * height * rng.uniform(*how.scale)
        ratio = math.exp(rng.uniform(math.log(how.ratio[0]), math.log(how.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < how.ratio[0]:
        h = round(w / how.ratio[0])
    elif width / height > how.ratio[1]:
        w = round(h * how.ratio[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
