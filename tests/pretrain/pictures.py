"""Pictures to measure image operations on: drawn ones always, frames of real videos where they are at hand."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest

DAVIS = Path(__file__).parents[2] / "../shared/data/davis2016_val/JPEGImages/480p"
SHORT_SIDE_PX = 256


@functools.cache
def drawn(count: int = 2, height: int = 256, width: int = 340) -> list[np.ndarray]:
    """Noise of falling octaves (as natural images have) in colour, with a few hard-edged discs: uint8 (H, W, 3)."""
    pictures = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        field = np.full((height, width, 3), 127.0)
        for octave in (4, 8, 16, 32, 64):
            noise = rng.normal(size=(octave, octave, 3)) * 160 / octave**0.7
            field += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = field.clip(0, 255).astype(np.uint8)
        for _ in range(6):
            centre = tuple(rng.integers(0, (width, height)).tolist())
            cv2.circle(picture, centre, int(rng.integers(8, 40)), rng.integers(0, 256, 3).tolist(), -1)
        pictures.append(picture)
    return pictures


@functools.cache
def real() -> list[np.ndarray]:
    """First frames of DAVIS sequences, short side 256 as in a frame store; skips where there is none."""
    files = sorted(folder / "00000.jpg" for folder in DAVIS.glob("*"))[:2]
    if not files:
        pytest.skip("no real frames here (../shared/data/davis2016_val)")
    return [_to_short_side(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)) for file in files]


def _to_short_side(image: np.ndarray) -> np.ndarray:
    share = SHORT_SIDE_PX / min(image.shape[:2])
    return cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
