"""What is where, read from the id buffer: boxes, areas, polygons, contours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from components.download.world.render import Frame, Seen

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Instance:
    """A visible toy: its pixels' box [x0, x1) x [y0, y1), their number, and whether some are hidden."""

    seen: Seen
    box: tuple[int, int, int, int]
    area: int

    @property
    def visible(self) -> float:
        """Share of its pixels in the frame that nothing hides."""
        return self.area / self.seen.whole_px

    def touches_edge(self, shape: tuple[int, ...]) -> bool:
        x0, y0, x1, y1 = self.box
        return x0 == 0 or y0 == 0 or x1 == shape[1] or y1 == shape[0]


def instances(frame: Frame, min_px: int) -> list[Instance]:
    """Toys with at least `min_px` visible pixels, by number."""
    found = []
    for seen in sorted(frame.seen, key=lambda s: s.number):
        rows, columns = (np.flatnonzero((frame.ids == seen.number).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            x0, y0, x1, y1 = box
            area = int(np.count_nonzero(frame.ids[y0:y1, x0:x1] == seen.number))
            if area >= min_px:
                found.append(Instance(seen, box, area))
    return found


def relabel(ids: NDArray[np.uint16], values: dict[int, int]) -> NDArray[np.uint8]:
    """The id buffer with `values[number]` in place of each number, 0 for numbers it does not name."""
    table = np.zeros(int(ids.max()) + 1, np.uint8)
    for number, value in values.items():
        if number < len(table):
            table[number] = value
    return table[ids]


def with_void(labels: NDArray[np.uint8], ids: NDArray[np.unsignedinteger], half_px: int) -> NDArray[np.uint8]:
    """`labels` with 255 within `half_px` pixels of a contour between two ids, on both sides; unchanged for 0."""
    if not half_px:
        return labels
    kernel = np.ones((2 * half_px + 1, 2 * half_px + 1), np.uint8)
    band = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    return np.where(band, np.uint8(255), labels)


def polygons(mask: Mask, x: int = 0, y: int = 0) -> list[list[float]]:
    """Polygons [x0, y0, x1, y1, ...] that together cover `mask` and nothing else (COCO's convention).

    Coordinates are of pixel corners (pixel (0, 0) spans 0..1), counted from (-x, -y). The border is traced a quarter
    of a pixel inside the mask, so that exactly the mask's pixel centres lie inside. A piece with a hole is cut in two
    through the hole, because COCO's polygons have none.
    """
    found: list[list[float]] = []
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for piece in range(1, count):
        left, top, width, height = (int(v) for v in stats[piece, :4])
        window = pieces[top : top + height, left : left + width]
        found += _trace(window == piece, x + left, y + top)
    return found


def _trace(piece: Mask, x: int, y: int) -> list[list[float]]:
    """Polygons of one connected piece whose corner lies at (x, y)."""
    # twice as large and with a border: the contour then runs a quarter of a pixel inside the piece
    large = np.pad(piece.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 2)
    contours, hierarchy = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    hole = next((c for c, h in zip(contours, hierarchy[0], strict=True) if h[3] >= 0), None)
    if hole is None:
        return [((contour[:, 0] - 1.5) / 2 + (x, y)).ravel().tolist() for contour in contours]
    middle = ((int(hole[:, 0, 0].min()) + int(hole[:, 0, 0].max())) // 2 - 2) // 2  # a column the hole runs through
    return polygons(piece[:, :middle], x, y) + polygons(piece[:, middle:], x + middle, y)
