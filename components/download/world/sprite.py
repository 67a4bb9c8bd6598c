"""Sprites: one rigid part of a toy, painted once and moved by an affine map in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from components.download.world.texture import Skin

Outline = NDArray[np.float64]  # (n, 2) points in body units, x forward, y down
SUPERSAMPLING = 3  # parts are painted this much larger, then averaged down: soft edges for a one-off cost
SHIFT = 4  # fixed-point bits of cv2.fillPoly: outlines keep 1/16 of a pixel
RIM = 0.05  # width of the darker rim that makes flat parts look round, body units


@dataclass(frozen=True)
class Shape:
    """An outline filled with a skin. `label` is the VIP part it shows (0: none)."""

    outline: Outline
    skin: Skin
    label: int = 0
    flat: bool = False  # True: a marking (an eye, a window) that must not get a rim of its own


@dataclass(frozen=True)
class Sprite:
    """A painted part.

    Attributes:
        pixels: (h, w, 4) uint8, BGR times alpha, and alpha.
        labels: (h, w) uint8 part labels, 0 where there is none.
        to_part: (3, 3) from sprite pixels to the part's own coordinates.
        main_label: the label that covers most of the part.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    to_part: NDArray[np.float64]
    main_label: int = 0


def paint(shapes: Sequence[Shape], px_per_unit: float, rng: np.random.Generator) -> Sprite:
    """Paint `shapes` in order, the later over the earlier."""
    px = px_per_unit * SUPERSAMPLING
    corner, (width, height) = _canvas(shapes, px)
    colour = np.zeros((height, width, 3), np.float32)
    alpha, labels = np.zeros((2, height, width), np.uint8)
    for shape in shapes:
        _fill(colour, alpha, labels, shape, corner, px, rng)
    _shade(colour, height)
    return _shrink(colour, alpha, labels, corner, px)


def _canvas(shapes: Sequence[Shape], px: float) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Top left corner in body units, and a size that SUPERSAMPLING divides, with room for a clear border."""
    points = np.concatenate([shape.outline for shape in shapes]) * px
    low = np.floor(points.min(axis=0)) - SUPERSAMPLING
    cells = np.ceil((points.max(axis=0) + SUPERSAMPLING - low) / SUPERSAMPLING).astype(int) + 1
    width, height = (cells * SUPERSAMPLING).tolist()
    return low / px, (width, height)


def _fill(
    colour: NDArray[np.float32],
    alpha: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    shape: Shape,
    corner: NDArray[np.float64],
    px: float,
    rng: np.random.Generator,
) -> None:
    points = (shape.outline - corner) * px
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, colour.shape[1::-1])
    box = np.s_[y0:y1, x0:x1]
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.round((points - (x0, y0)) * 2**SHIFT).astype(np.int32)], 255, shift=SHIFT)
    inside = mask > 0
    skin = shape.skin.pixels(rng, mask.shape, px)
    if not shape.flat:
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        skin *= (0.62 + 0.38 * np.minimum(depth / (RIM * px), 1))[..., None]
    colour[box][inside] = skin[inside]
    alpha[box][inside] = 255
    labels[box][inside] = shape.label


def _shade(colour: NDArray[np.float32], height: int) -> None:
    """Light from above: brighter at the top of a part, darker at its bottom."""
    colour *= np.linspace(1.12, 0.86, height, dtype=np.float32)[:, None, None]
    np.clip(colour, 0, 255, out=colour)


def _shrink(
    colour: NDArray[np.float32],
    alpha: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    corner: NDArray[np.float64],
    px: float,
) -> Sprite:
    """Average down to the final resolution; labels are taken at the middle of each cell."""
    size = (alpha.shape[1] // SUPERSAMPLING, alpha.shape[0] // SUPERSAMPLING)
    large = np.dstack([colour, alpha.astype(np.float32)])  # colour is 0 where alpha is: already multiplied
    pixels = np.round(cv2.resize(large, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)
    middle = SUPERSAMPLING // 2
    cell = SUPERSAMPLING / px
    # the centre of sprite pixel (0, 0) lies half a cell inside the corner
    to_part = np.array([[cell, 0, corner[0] + cell / 2], [0, cell, corner[1] + cell / 2], [0, 0, 1]])
    small = labels[middle::SUPERSAMPLING, middle::SUPERSAMPLING].copy()
    counts = np.bincount(small[small > 0], minlength=1)
    return Sprite(pixels, small, to_part, int(counts.argmax()))


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 28, tilt: float = 0.0) -> Outline:
    """Ellipse about (x, y), turned by `tilt` radians."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    across, down = rx * np.cos(angle), ry * np.sin(angle)
    c, s = np.cos(tilt), np.sin(tilt)
    return np.stack([x + c * across - s * down, y + s * across + c * down], axis=1)


def limb(length: float, top: float, bottom: float) -> Outline:
    """A rounded limb hanging from the origin, `length` down, with radii `top` and `bottom`."""
    low, high = np.linspace(0, np.pi, 9), np.linspace(np.pi, 2 * np.pi, 9)
    under = np.stack([bottom * np.cos(low), length + bottom * np.sin(low)], axis=1)
    over = np.stack([top * np.cos(high), top * np.sin(high)], axis=1)
    return np.concatenate([under, over])


def smooth(points: Sequence[tuple[float, float]], rounds: int = 2) -> Outline:
    """Closed outline with its corners cut (Chaikin's algorithm, 1974)."""
    outline = np.asarray(points, float)
    for _ in range(rounds):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1)
        outline = outline.reshape(-1, 2)
    return outline


def polygon(*points: tuple[float, float]) -> Outline:
    """Closed outline with sharp corners."""
    return np.asarray(points, float)


def box(x0: float, y0: float, x1: float, y1: float) -> Outline:
    """Rectangle with rounded corners."""
    return smooth([(x0, y0), ((x0 + x1) / 2, y0), (x1, y0), (x1, y1), ((x0 + x1) / 2, y1), (x0, y1)], rounds=2)
