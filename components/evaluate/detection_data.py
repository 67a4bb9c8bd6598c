"""Pictures with boxes, labels and masks for training a detector, and the published augmentation (numpy and OpenCV).

The augmentation is that of DETR and Sparse R-CNN, which iBOT's detection uses: a flip, then either a resize to a short
side drawn from a list, or a smaller resize, a random crop, and that resize.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.images import read_rgb
from components.evaluate.layouts.coco import CocoPicture, Note

LEAST_SIDE_PX = 1.0  # smaller boxes are no objects to learn from
NO_COPY_KEYWORD = "__array__ implementation doesn't accept a copy keyword"  # NumPy 2 on every mask of pycocotools
LEAST_POLYGON = 6  # numbers: three points


@dataclass(frozen=True)
class Example:
    """One picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        boxes: (n, 4) float32, x0, y0, x1, y1 in pixels.
        labels: (n,) int64, 1 to the number of classes.
        masks: (n, H, W) uint8, 0 or 1.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for a training picture; sides in pixels, see the task's parameters."""

    flip: float
    short_px: Sequence[int]
    long_px: int
    crop_share: float
    crop_short_px: Sequence[int]
    crop_px: tuple[int, int]


def usable(notes: Sequence[Note]) -> list[Note]:
    """Annotations a detector learns from: no crowds, boxes of some size, masks that are there."""
    return [
        note
        for note in notes
        if not note.get("iscrowd") and min(note["bbox"][2:]) >= LEAST_SIDE_PX and _has_mask(note.get("segmentation"))
    ]


def _has_mask(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) or any(len(polygon) >= LEAST_POLYGON for polygon in segmentation or [])


def decode(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The mask (H, W) of polygons or of a run-length code, compressed or not, as pycocotools draws it."""
    from pycocotools import mask

    warnings.filterwarnings("ignore", NO_COPY_KEYWORD, DeprecationWarning, r"pycocotools\.mask")
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= LEAST_POLYGON]
        code = mask.merge(mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        code = mask.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return np.asarray(mask.decode(code), np.uint8)


def load(picture: CocoPicture, notes: Sequence[Note], labels: Mapping[int, int]) -> Example:
    """A picture with its usable annotations; `labels` maps category ids to 1, 2, ..."""
    image = read_picture(picture)
    corners = np.array([note["bbox"] for note in notes], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    masks = [decode(note["segmentation"], picture.height, picture.width) for note in notes]
    return Example(
        image,
        np.clip(corners, 0, [picture.width, picture.height] * 2).astype(np.float32),
        np.array([labels[note["category_id"]] for note in notes], np.int64),
        np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), np.uint8),
    )


def read_picture(picture: CocoPicture) -> NDArray[np.uint8]:
    """The picture's pixels; StageError if its size is not what the annotations say."""
    image = np.array(read_rgb(picture.file))
    if image.shape[:2] != (picture.height, picture.width):
        said, is_ = f"{picture.width}x{picture.height}", f"{image.shape[1]}x{image.shape[0]}"
        raise StageError(f"sizes disagree: the picture is {is_}, its annotations say {said}", where=picture.file)
    return image


def augment(example: Example, how: Augmentation, rng: np.random.Generator) -> Example:
    """A random rendition of a training picture."""
    if rng.random() < how.flip:
        example = flip(example)
    if rng.random() < how.crop_share:
        example = resize(example, int(rng.choice(how.crop_short_px)), how.long_px)
        example = random_crop(example, how.crop_px, rng)
    return resize(example, int(rng.choice(how.short_px)), how.long_px)


def flip(example: Example) -> Example:
    """Mirrored left to right."""
    x0, y0, x1, y1 = example.boxes.T
    width = example.image.shape[1]
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    return replace(example, image=example.image[:, ::-1], boxes=boxes, masks=example.masks[..., ::-1])


def scaled_size(height: int, width: int, short_px: int, long_px: int) -> tuple[int, int]:
    """The size whose short side is `short_px`, or less where the long side would pass `long_px`."""
    scale = min(short_px / min(height, width), long_px / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(example: Example, short_px: int, long_px: int) -> Example:
    """Bilinear for pixels, nearest for masks."""
    height, width = example.image.shape[:2]
    to = scaled_size(height, width, short_px, long_px)
    boxes = example.boxes * np.array([to[1] / width, to[0] / height] * 2, np.float32)
    masks = [cv2.resize(mask, to[::-1], interpolation=cv2.INTER_NEAREST) for mask in example.masks]
    return Example(
        resize_image(example.image, to),
        boxes.astype(np.float32),
        example.labels,
        np.stack(masks).astype(np.uint8) if masks else np.zeros((0, *to), np.uint8),
    )


def resize_image(image: NDArray[np.uint8], to: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear, to (height, width)."""
    return np.asarray(cv2.resize(image, to[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def random_crop(example: Example, sides_px: tuple[int, int], rng: np.random.Generator) -> Example:
    """A crop whose sides are drawn between two lengths, as far as the picture goes; boxes outside it are dropped."""
    height, width = example.image.shape[:2]
    tall, wide = (int(rng.integers(min(side, sides_px[0]), min(side, sides_px[1]) + 1)) for side in (height, width))
    top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
    boxes = np.clip(example.boxes - np.array([left, top] * 2, np.float32), 0, [wide, tall] * 2).astype(np.float32)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Example(
        example.image[top : top + tall, left : left + wide],
        boxes[kept],
        example.labels[kept],
        example.masks[kept, top : top + tall, left : left + wide],
    )
