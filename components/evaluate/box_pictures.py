"""Boxes, patches and masks drawn over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.evaluate.detection_data import decode
from components.evaluate.images import colours_of

Array = NDArray[np.uint8]
Colour = tuple[int, int, int]

SHARE_OF_COLOUR = 0.5  # of a mask's colour where it covers the picture
PAPER = (255, 255, 255)
SHOWN_PX = 384  # pictures with a smaller short side are enlarged, so that captions have room


def enlarged(image: Array) -> tuple[Array, int]:
    """The picture a whole number of times as large, and how many times."""
    times = -(-SHOWN_PX // min(image.shape[:2]))
    size = (image.shape[1] * times, image.shape[0] * times)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8), times


def draw_boxes(
    image: Array, boxes: Sequence[Sequence[float]], colour: Colour, captions: Sequence[str] | None = None
) -> Array:
    """The picture (H, W, 3) with boxes x0, y0, x1, y1, each with its caption at the upper left corner."""
    out = image.copy()
    thick = max(1, round(min(image.shape[:2]) / 150))
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), colour, thick)
        if captions is not None:
            _caption(out, captions[number], (x0, y0), colour, thick)
    return out


def _caption(out: Array, text: str, corner: tuple[int, int], colour: Colour, thick: int) -> None:
    scale = max(0.45, min(out.shape[:2]) / 640)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = corner[0], max(corner[1], height + below)
    cv2.rectangle(out, (x, y - height - below), (x + width, y), colour, -1)
    cv2.putText(out, text, (x, y - below // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, PAPER, 1, cv2.LINE_AA)


def tint(image: Array, mask: NDArray[np.bool_], colour: Colour) -> Array:
    """The picture with a mask (H, W) in colour."""
    out = image.copy()
    out[mask] = (image[mask] * (1 - SHARE_OF_COLOUR) + np.array(colour) * SHARE_OF_COLOUR).astype(np.uint8)
    return out


def mark_cell(image: Array, cell: tuple[int, int], patch_px: int, colour: Colour) -> Array:
    """The picture with one patch (row, column) filled."""
    out = image.copy()
    top, left = cell[0] * patch_px, cell[1] * patch_px
    out[top : top + patch_px, left : left + patch_px] = colour
    return out


def heat(values: NDArray, patch_px: int, size: tuple[int, int]) -> Array:
    """Values of patches (h, w) as colours from their least (dark) to their largest (bright), cut to `size`."""
    values = values.astype(np.float64)
    spread = values.max() - values.min()
    grey = np.round(255 * (values - values.min()) / (spread or 1)).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    large = coloured.repeat(patch_px, axis=0).repeat(patch_px, axis=1)
    return np.ascontiguousarray(large[: size[0], : size[1]])


def draw_instances(image: Array, notes: Sequence[dict[str, Any]], names: Mapping[int, str]) -> Array:
    """The picture, enlarged, with COCO's annotations or detections: masks, boxes, classes with scores, best on top."""
    out, times = enlarged(image)
    colours = colours_of(np.arange(256, dtype=np.uint8))[1:]
    for note in sorted(notes, key=lambda note: note.get("score", 0.0)):
        red, green, blue = colours[list(names).index(note["category_id"]) % len(colours)].tolist()
        colour = (red, green, blue)
        if "segmentation" in note:
            mask = decode(note["segmentation"], *image.shape[:2]) > 0
            out = tint(out, mask.repeat(times, axis=0).repeat(times, axis=1), colour)
        x, y, width, height = (times * side for side in note["bbox"])
        score = f" {note['score']:.2f}" if "score" in note else ""
        out = draw_boxes(out, [(x, y, x + width, y + height)], colour, [names[note["category_id"]] + score])
    return out
