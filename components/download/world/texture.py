"""Procedural textures: multi-octave value noise and the patterns made of it."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Colour = tuple[float, float, float]  # BGR, 0..255
FINEST_CELL_PX = 1.5  # noise finer than this only costs bits in the video


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """BGR colour; every argument in 0..1, hue wraps."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * b, 255 * g, 255 * r


def noise(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, octaves: int = 4) -> Map:
    """Value noise (h, w) about 0.5, in 0..1: each octave halves the cell and the weight."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    weights = 0.0
    for octave in range(octaves):
        cell = cell_px / 2**octave
        if octave and cell < FINEST_CELL_PX:
            break
        grid = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
        weights += 1 / 2**octave
    return np.clip(total / weights, 0, 1, out=total)


def step(values: NDArray[np.floating], edge: float, softness: float) -> Map:
    """Smooth threshold: 0 below `edge - softness`, 1 above `edge + softness`."""
    return np.clip((values - edge) / (2 * softness) + 0.5, 0, 1).astype(np.float32, copy=False)


def axes(shape: tuple[int, int], px: float) -> tuple[Map, Map]:
    """Coordinates (x as a row, y as a column) in units of `px` pixels."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (x / px).astype(np.float32), (y / px).astype(np.float32)


def mix(low: Colour, high: Colour, weight: Map) -> Map:
    """(h, w, 3) colours between `low` (weight 0) and `high` (weight 1)."""
    planes = [np.float32(b - a) * weight + np.float32(a) for a, b in zip(low, high, strict=True)]
    return np.asarray(cv2.merge(planes))  # a quarter of the time that broadcasting over the last axis takes


# A pattern gives the weight (h, w) of a skin's second colour; `px` is the size of its motif in pixels.
Pattern = Callable[[np.random.Generator, tuple[int, int], float], Map]


def plain(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    return np.zeros(shape, np.float32)


def patches(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    return step(noise(rng, shape, px, 2), 0.54, 0.02)


def stripes(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    """Wavy upright stripes, as on a tabby."""
    x, _ = axes(shape, px)
    bent = x + np.float32(1.2) * noise(rng, shape, 3 * px, 2)
    return step(np.sin(np.float32(2 * np.pi) * bent), 0.25, 0.2)


def bands(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    """Level bands, as on a jumper."""
    _, y = axes(shape, px)
    return np.broadcast_to(step(np.sin(2 * np.pi * (y + rng.random(dtype=np.float32))), 0.0, 0.1), shape)


def checks(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    x, y = axes(shape, px)
    across, down = step(np.sin(np.pi * x), 0, 0.1), step(np.sin(np.pi * y), 0, 0.1)
    return 0.5 * (across + down)


def dots(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    x, y = axes(shape, px)
    return step(np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y), 0.45, 0.1)


def wool(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    """Curls: ridges of two noises."""
    curl = np.abs(noise(rng, shape, px, 2) - 0.5) + np.abs(noise(rng, shape, 0.6 * px, 2) - 0.5)
    return np.clip(1 - 4 * curl, 0, 1)


def grain(rng: np.random.Generator, shape: tuple[int, int], px: float) -> Map:
    """Long level fibres, as in hair or wood."""
    tall = noise(rng, (shape[0], max(2, shape[1] // 6)), 0.4 * px, 3)
    return np.clip(3 * cv2.resize(tall, shape[::-1], interpolation=cv2.INTER_LINEAR) - 1, 0, 1)


@dataclass(frozen=True)
class Skin:
    """What a surface looks like: two colours, the pattern that mixes them and its motif's size in body units."""

    low: Colour
    high: Colour = (0.0, 0.0, 0.0)
    pattern: Pattern = plain
    motif: float = 0.1
    mottle: float = 0.16  # strength of the fine noise that keeps every surface textured

    def pixels(self, rng: np.random.Generator, shape: tuple[int, int], px_per_unit: float) -> Map:
        """(h, w, 3) BGR as float32, not clipped."""
        colours = mix(self.low, self.high, self.pattern(rng, shape, max(2.0, self.motif * px_per_unit)))
        fine = noise(rng, shape, max(2.0, 0.05 * px_per_unit), 2)
        return colours * (1 + self.mottle * (2 * fine - 1))[..., None]
