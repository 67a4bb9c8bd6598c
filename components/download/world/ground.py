"""The ground: one large textured sheet a shot, of two kinds of ground, and the map that says which lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from components.download.world.classes import GROUNDS
from components.download.world.texture import Colour, Map, axes, hsv, mix, noise, step

EXTENT = (4.5, 3.5)  # size of the sheet in units (frame heights); beyond it the sheet is mirrored
Size = tuple[int, int]
Rng = np.random.Generator


@dataclass(frozen=True)
class Ground:
    """`pixels` (h, w, 3) uint8 BGR and `kinds` (h, w) uint8 (1 + position in GROUNDS), at `px_per_unit`."""

    pixels: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    px_per_unit: float


def make_ground(rng: Rng, px_per_unit: float) -> Ground:
    """Draw a sheet: a main kind with islands or a path of a second one."""
    shape = (round(EXTENT[1] * px_per_unit), round(EXTENT[0] * px_per_unit))
    names = [str(name) for name in rng.choice(list(GROUNDS), 2, replace=False)]
    main, other = (PAINTERS[name](rng, shape, px_per_unit) for name in names)
    where = _region(rng, shape, px_per_unit)
    pixels = np.where(where[..., None], other, main)
    _border(pixels, where, px_per_unit)
    # large soft differences of light, so that no two places look the same
    pixels *= (0.82 + 0.36 * noise(rng, shape, 1.2 * px_per_unit, 2))[..., None]
    first, second = (1 + list(GROUNDS).index(name) for name in names)
    kinds = np.where(where, second, first).astype(np.uint8)
    return Ground(np.clip(pixels, 0, 255).astype(np.uint8), kinds, px_per_unit)


def _region(rng: Rng, shape: Size, unit: float) -> NDArray[np.bool_]:
    if rng.random() < 0.5:
        return noise(rng, shape, 1.1 * unit, 2) > 0.57
    x, y = axes(shape, unit)  # a winding path
    bend = 0.35 * np.sin(x * rng.uniform(1.2, 2.4) + rng.uniform(0, 6)) + 0.3 * noise(rng, shape, unit, 2)
    return np.abs(y - EXTENT[1] / 2 - bend.astype(np.float32)) < rng.uniform(0.25, 0.45)


def _border(pixels: Map, where: NDArray[np.bool_], unit: float) -> None:
    """A darker line where two kinds meet."""
    edge = cv2.morphologyEx(where.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), max(0.6, 0.008 * unit))
    pixels *= (1 - 0.45 * np.minimum(soft, 1))[..., None]


def _scatter(
    pixels: Map, rng: Rng, unit: float, per_square_unit: float, colours: list[Colour], radius: tuple[float, float]
) -> None:
    """Round things lying about: flowers, pebbles, shells."""
    height, width = pixels.shape[:2]
    count = int(per_square_unit * EXTENT[0] * EXTENT[1])
    centres = (rng.random((count, 2)) * (width, height) * 16).astype(int).tolist()
    radii = (rng.uniform(*radius, count) * unit * 16).astype(int).tolist()
    picks = rng.integers(len(colours), size=count).tolist()
    for centre, r, pick in zip(centres, radii, picks, strict=True):
        cv2.circle(pixels, centre, r, [0.6 * c for c in colours[pick]], -1, cv2.LINE_8, 4)
        cv2.circle(pixels, (centre[0] - r // 4, centre[1] - r // 4), (3 * r) // 4, colours[pick], -1, cv2.LINE_8, 4)


def _grass(rng: Rng, shape: Size, unit: float) -> Map:
    hue = rng.uniform(0.22, 0.36)
    blades = noise(rng, (shape[0] // 3, shape[1]), 0.03 * unit, 2)  # stretched upright
    tall = cv2.resize(blades, shape[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = mix(hsv(hue, 0.7, 0.3), hsv(hue - 0.04, 0.6, 0.75), 0.6 * tall + 0.4 * noise(rng, shape, 0.5 * unit))
    petals = [hsv(rng.random(), 0.7, 1.0), hsv(0.15, 0.7, 1.0), hsv(0, 0, 1)]
    _scatter(pixels, rng, unit, 9, petals, (0.012, 0.03))
    return pixels


def _sand(rng: Rng, shape: Size, unit: float) -> Map:
    _, y = axes(shape, unit)
    ripples = 0.5 + 0.5 * np.sin(2 * np.pi * (7 * y + 2.5 * noise(rng, shape, 0.7 * unit, 3)))
    hue = rng.uniform(0.08, 0.13)
    pixels = mix(hsv(hue, 0.5, 0.66), hsv(hue, 0.35, 0.95), 0.45 * ripples + 0.55 * noise(rng, shape, 0.1 * unit))
    _scatter(pixels, rng, unit, 2, [hsv(0.03, 0.3, 0.95), hsv(0.1, 0.2, 0.6)], (0.015, 0.035))
    return pixels


def _earth(rng: Rng, shape: Size, unit: float) -> Map:
    pixels = mix(hsv(0.06, 0.55, 0.26), hsv(0.08, 0.45, 0.62), noise(rng, shape, 0.25 * unit, 5))
    _scatter(pixels, rng, unit, 14, [hsv(0.08, 0.1, 0.65), hsv(0.06, 0.3, 0.45)], (0.012, 0.05))
    return pixels


def _water(rng: Rng, shape: Size, unit: float) -> Map:
    x, y = axes(shape, unit)
    warp = noise(rng, shape, 0.5 * unit, 3)
    crests = 1 - np.abs(np.sin(np.pi * (4.5 * y + 0.6 * x + 3 * warp)))
    hue = rng.uniform(0.5, 0.6)
    return mix(hsv(hue, 0.75, 0.45), hsv(hue - 0.03, 0.35, 0.95), 0.75 * crests**3 + 0.35 * warp)


def _pavement(rng: Rng, shape: Size, unit: float) -> Map:
    """Slabs in rows, each of its own tone, shifted by half a slab from row to row."""
    slab = rng.uniform(0.22, 0.36)
    x, y = axes(shape, unit * slab)
    row = np.floor(y).astype(int)
    along = x + 0.5 * (row % 2)
    tones = rng.random((int(EXTENT[1] / slab) + 3, int(EXTENT[0] / slab) + 3), dtype=np.float32)
    tone = tones[row, np.floor(along).astype(int)]
    joint = np.maximum(np.abs(along % 1 - 0.5), np.abs(y % 1 - 0.5))
    hue = rng.random()
    pixels = mix(hsv(hue, 0.15, 0.45), hsv(hue, 0.12, 0.85), 0.6 * tone + 0.4 * noise(rng, shape, 0.15 * unit))
    return pixels * (1 - 0.55 * step(joint, 0.475, 0.015))[..., None]


def _floor(rng: Rng, shape: Size, unit: float) -> Map:
    """Boards with their grain, laid along x."""
    board = rng.uniform(0.16, 0.26)
    x, y = axes(shape, unit * board)
    row = np.floor(y).astype(int)
    along = x / 5 + rng.random(int(EXTENT[1] / board) + 3, dtype=np.float32)[row]
    tones = rng.random((int(EXTENT[1] / board) + 3, int(EXTENT[0] / board / 5) + 3), dtype=np.float32)
    tone = tones[row, np.floor(along).astype(int)]
    fibres = cv2.resize(noise(rng, (shape[0], shape[1] // 8), 0.04 * unit, 3), shape[::-1])
    hue = rng.uniform(0.05, 0.1)
    pixels = mix(hsv(hue, 0.65, 0.35), hsv(hue, 0.5, 0.85), 0.5 * tone + 0.5 * fibres)
    gap = np.maximum(np.abs(y % 1 - 0.5), np.abs(along % 1 - 0.5))
    return pixels * (1 - 0.6 * step(gap, 0.48, 0.02))[..., None]


def _rug(rng: Rng, shape: Size, unit: float) -> Map:
    """Diamonds and stripes in three colours, with a weave."""
    x, y = axes(shape, unit * rng.uniform(0.35, 0.6))
    diamond = np.abs(x % 1 - 0.5) + np.abs(y % 1 - 0.5)
    hue = rng.random()
    pixels = mix(hsv(hue, 0.65, 0.5), hsv(hue + 0.4, 0.5, 0.8), step(diamond, 0.38, 0.03))
    inner = mix(hsv(hue, 0.65, 0.5), hsv(hue + 0.15, 0.6, 0.9), np.ones(shape, np.float32))
    pixels = np.where((diamond < 0.18)[..., None], inner, pixels)
    return pixels * (0.8 + 0.4 * noise(rng, shape, 0.02 * unit, 1))[..., None]


def _road(rng: Rng, shape: Size, unit: float) -> Map:
    """Asphalt with dashed lines."""
    pixels = mix(hsv(0.6, 0.06, 0.22), hsv(0.6, 0.05, 0.5), noise(rng, shape, 0.08 * unit, 4))
    x, y = axes(shape, unit)
    lane = np.abs((y % 0.9) - 0.45) < 0.025
    dash = (x % 0.6) < 0.36
    pixels[lane & dash] = hsv(0.14, rng.uniform(0, 0.6), 0.95)
    return pixels


def _snow(rng: Rng, shape: Size, unit: float) -> Map:
    pixels = mix(hsv(0.6, 0.22, 0.72), hsv(0.6, 0.02, 0.98), noise(rng, shape, 0.6 * unit, 5))
    _scatter(pixels, rng, unit, 3, [hsv(0.6, 0.1, 0.8), hsv(0.08, 0.3, 0.5)], (0.01, 0.03))
    return pixels


PAINTERS: dict[str, Callable[[Rng, Size, float], Map]] = {
    "grass": _grass,
    "sand": _sand,
    "earth": _earth,
    "water": _water,
    "pavement": _pavement,
    "floor": _floor,
    "rug": _rug,
    "road": _road,
    "snow": _snow,
}
