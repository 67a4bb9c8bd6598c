"""A 0/1 map as one large integer: shifting it moves the whole map, and Python's integers do so at memory speed.

Dilation by a disk is what makes F slow: a library kernel costs its area for every pixel. Here it costs two shifts per
row of the disk (17 for 480p) on an eighth of the bytes. Boundary and overlap cost a few shifts and counts more.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def pack(points: NDArray[np.uint8], stride: int) -> int:
    """Bit y * stride + x is points[y, x]. Columns beyond the map's width are empty, room for sideways shifts."""
    room = np.zeros((points.shape[0], stride), np.uint8)
    room[:, : points.shape[1]] = points
    return _packed(room)


def pack_repeated(mask: NDArray[np.uint8], stride: int) -> int:
    """`pack`, with the last column and the last row once more beyond the map's end: neighbours equal to it."""
    height, width = mask.shape
    room = np.zeros((height + 1, stride), np.uint8)
    room[:height, :width] = mask
    room[:height, width] = mask[:, -1]
    room[height] = room[height - 1]
    return _packed(room)


def boundary(mask: int, stride: int) -> int:
    """Where a map differs from its right, lower or lower-right neighbour.

    With `pack_repeated` the last row looks right only, the last column down only, and the last corner is 0.
    Bits beside and below the map may be set.
    """
    return (mask ^ mask >> 1) | (mask ^ mask >> stride) | (mask ^ mask >> (stride + 1))


def inside(height: int, width: int, stride: int) -> int:
    """1 on the map, 0 beside and below it."""
    rows, n_rows = (1 << width) - 1, 1
    while n_rows < height:
        step = min(n_rows, height - n_rows)
        rows |= rows << (step * stride)
        n_rows += step
    return rows


def _packed(room: NDArray[np.uint8]) -> int:
    return int.from_bytes(np.packbits(room, bitorder="little").tobytes(), "little")


def near(points: int, stride: int, radius: int) -> int:
    """All places within `radius` of a point: dilation by the disk x^2 + y^2 <= radius^2.

    `stride` must exceed the map's width by `radius`. Bits beside and below the map may be set; the caller masks them
    by the map it compares with.
    """
    half_widths = _half_widths(radius)
    run, reach = points << radius, 0  # room before bit 0: a run that lost its start there would move with a gap
    runs = {0: run}  # the map dilated sideways by each width the disk needs
    for width in sorted(set(half_widths)):
        while reach < width:  # a run can be moved by its own length and leaves no gap
            step = min(width - reach, 2 * reach + 1)
            run |= run << step | run >> step
            reach += step
        runs[width] = run
    disk = runs[half_widths[0]]
    for dy, width in enumerate(half_widths[1:], start=1):
        disk |= runs[width] << dy * stride | runs[width] >> dy * stride
    return disk >> radius


@lru_cache(maxsize=64)
def _half_widths(radius: int) -> list[int]:
    """Half width of the disk in its rows 0..radius."""
    return [math.isqrt(radius**2 - dy**2) for dy in range(radius + 1)]
