"""0/1 maps as rows of 64-bit words: an operation on a word is one on 64 pixels, and a move up or down is a slice.

Dilation by a disk is what makes F slow: a library kernel costs its area for every pixel. Here it is a few moves
sideways and one OR per row of the disk (17 for 480p) on an eighth of the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

BITS = 64


def pack(points: NDArray[np.bool_] | NDArray[np.uint8]) -> Bytes:
    """(H, W) map -> (H, bytes): column x is bit x % 8 of byte x // 8."""
    return np.packbits(points, axis=1, bitorder="little")


def window(packed: Bytes) -> tuple[slice, slice] | None:
    """Rows and bytes that hold all set bits and the neighbours of each but those on its right; None if all are 0."""
    rows = np.flatnonzero(np.bitwise_or.reduce(packed, axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(np.bitwise_or.reduce(packed, axis=0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 1)


def to_words(maps: Sequence[Bytes], room: int) -> Words:
    """N packed maps of one size -> (N, H, n) words: column x is bit x % 64 of word x // 64, then `room` empty bits."""
    height, width = maps[0].shape
    wide = np.zeros((len(maps), height, -(-(8 * width + room) // BITS) * BITS // 8), np.uint8)
    for row, packed in zip(wide, maps, strict=True):
        row[:, :width] = packed
    return wide.view("<u8")


def count(words: Words) -> NDArray[np.int64]:
    """Bits that are set in each of (N, H, n) maps."""
    return np.bitwise_count(words).reshape(len(words), -1).sum(1, dtype=np.int64)


def boundary(maps: Words, width: int) -> Words:
    """Where (N, H, n) maps, with room at the end of a row, differ from their right, lower or lower-right neighbour.

    The last row looks right only, the last column of the picture (`width` - 1, where the maps reach so far) down only,
    and their corner is 0.
    """
    flat = maps.reshape(-1)
    right = flat >> 1
    right[:-1] |= flat[1:] << (BITS - 1)
    right = right.reshape(maps.shape)
    found = maps ^ right
    found[:, :-1] |= maps[:, :-1] ^ right[:, 1:]
    for column in {width - 1, BITS * maps.shape[2] - 1}:  # the very last bit saw the next row's first
        if column < BITS * maps.shape[2]:
            found[:, :, column // BITS] &= ~np.uint64(1 << column % BITS)
    found[:, :-1] |= maps[:, :-1] ^ maps[:, 1:]
    return np.asarray(found, np.uint64)


def near(points: Words, radius: int) -> Words:
    """All places within `radius` of a point, map by map: dilation by the disk x^2 + y^2 <= radius^2.

    (N, H, n) -> the same; each row needs `radius` empty bits at its end. They may be set in the result, the caller
    masks them by the map it compares with.
    """
    half_widths = _half_widths(radius)
    run, reach, runs = np.ascontiguousarray(points).reshape(-1), 0, {}
    for width in sorted(set(half_widths)):  # the maps dilated sideways by each width the disk needs
        while reach < width:
            step = min(width - reach, reach + 1, BITS - 1)  # no longer, so that what falls off bit 0 leaves no gap
            run, reach = _widened(run, step), reach + step
        runs[width] = run.reshape(points.shape)
    disk = runs[half_widths[0]].copy()
    for dy, width in enumerate(half_widths[1:], start=1):
        disk[:, dy:] |= runs[width][:, :-dy]
        disk[:, :-dy] |= runs[width][:, dy:]
    return disk


def _widened(run: Words, step: int) -> Words:
    """A string of bits, itself moved up and itself moved down by `step` (1 to 63), in one."""
    wide = run << step
    wide |= run
    wide |= run >> step
    wide[1:] |= run[:-1] >> (BITS - step)
    wide[:-1] |= run[1:] << (BITS - step)
    return np.asarray(wide, np.uint64)


@lru_cache(maxsize=64)
def _half_widths(radius: int) -> list[int]:
    """Half width of the disk in its rows 0..radius."""
    return [math.isqrt(radius**2 - dy**2) for dy in range(radius + 1)]
