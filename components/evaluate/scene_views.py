"""Training views of a labelled picture, as mmsegmentation's ADE20K recipe draws them.

Resize by a random ratio keeping the shape, a random square crop that no class fills, mirror, photometric distortion,
padding. All draws come from one generator in this order, so that a view depends on its seed alone. OpenCV on uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

VOID = 255
CROP_TRIES = 10  # then the last crop is taken, whatever fills it (mmsegmentation)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """Constants of the views.

    Attributes:
        short_px, long_px: a picture is scaled to the largest size within both, before the random ratio.
        ratio: least and largest random factor of both.
        crop_px: side of the square crop.
        max_class_share: a crop in which one class has more of the labelled pixels is drawn again; 1: never.
        flip: chance of a mirror image.
        photometric: distort colours.
        brightness: largest shift, grey levels; contrast, saturation: least and largest factor; hue: largest shift, of
            OpenCV's 180 steps. Each is applied with chance one half.
    """

    short_px: int
    long_px: int
    ratio: tuple[float, float]
    crop_px: int
    max_class_share: float
    flip: float
    photometric: bool
    brightness: float
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    hue: int


@dataclass(frozen=True)
class View:
    """A square crop (S, S, 3) and its labels (S, S); only the upper left height x width pixels are of the picture."""

    pixels: Pixels
    labels: Pixels
    height: int
    width: int


def draw(image: Pixels, labels: Pixels, how: Recipe, rng: np.random.Generator) -> View:
    """One random view of a picture (H, W, 3) RGB and its labels (H, W), 255 void."""
    ratio = rng.uniform(*how.ratio)
    height, width = scaled(image.shape[0], image.shape[1], int(how.short_px * ratio), int(how.long_px * ratio))
    image, labels = resize(image, labels, height, width)
    top, left = corner(labels, how, rng)
    square = slice(top, top + how.crop_px), slice(left, left + how.crop_px)
    image, labels = image[square], labels[square]
    if rng.random() < how.flip:
        image, labels = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    if how.photometric:
        image = distort(image, how, rng)
    return padded(image, labels, how.crop_px)


def scaled(height: int, width: int, short_px: int, long_px: int) -> tuple[int, int]:
    """Largest (height, width) of the same shape whose sides stay within both limits, rounded half up."""
    factor = min(long_px / max(height, width), short_px / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(image: Pixels, labels: Pixels, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Both to this size: the picture bilinearly, the labels by the nearest pixel."""
    size = (width, height)
    return (
        np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)),
    )


def corner(labels: Pixels, how: Recipe, rng: np.random.Generator) -> tuple[int, int]:
    """Upper left corner of a crop in which no class has more than `max_class_share` of the labelled pixels."""
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(0, max(side - how.crop_px, 0) + 1)) for side in labels.shape)
        if how.max_class_share >= 1:
            break
        counts = np.bincount(labels[top : top + how.crop_px, left : left + how.crop_px].ravel(), minlength=256)[:VOID]
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < how.max_class_share:
            break
    return top, left


def distort(image: Pixels, how: Recipe, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue, each with chance one half; contrast before or after the last two."""
    if rng.random() < 0.5:
        image = affine(image, 1.0, rng.uniform(-how.brightness, how.brightness))
    early = rng.random() < 0.5
    if early and rng.random() < 0.5:
        image = affine(image, rng.uniform(*how.contrast), 0.0)
    image = distort_colour(image, how, rng)
    if not early and rng.random() < 0.5:
        image = affine(image, rng.uniform(*how.contrast), 0.0)
    return image


def distort_colour(image: Pixels, how: Recipe, rng: np.random.Generator) -> Pixels:
    """Saturation times a factor and hue shifted around the circle."""
    factor = rng.uniform(*how.saturation) if rng.random() < 0.5 else 1.0
    shift = int(rng.integers(-how.hue, how.hue)) if how.hue and rng.random() < 0.5 else 0
    if factor == 1.0 and shift == 0:
        return image
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    hsv[..., 1] = affine(hsv[..., 1], factor, 0.0)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def affine(image: Pixels, factor: float, shift: float) -> Pixels:
    """image * factor + shift, cut to 0..255; fractions are dropped as mmsegmentation drops them."""
    values = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), values))


def padded(image: Pixels, labels: Pixels, side: int) -> View:
    """Right and below to the square; padding is void, and its pixels count as the mean colour (see `View`)."""
    height, width = labels.shape
    below, right = side - height, side - width
    return View(
        np.pad(image, ((0, below), (0, right), (0, 0))),
        np.pad(labels, ((0, below), (0, right)), constant_values=VOID),
        height,
        width,
    )
