"""Where a view is cut: RandomResizedCrop's draw, the resize, and crops on an image that was decoded smaller.

Boxes are whole pixels of the image they are cut from, drawn before any pixel is read: what the loader decodes can then
depend on what the views need.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

# One core per loader worker: OpenCV's own threads would fight the other workers for it.
cv2.setNumThreads(0)

TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
DECODE_FACTORS = (8, 4, 2)  # libjpeg-turbo has fast paths for these; 7/8 ... 3/8 decode no faster than the whole
# Which filter, by shrink factor: the cheapest about as near to Pillow's antialiased bicubic as Pillow's bilinear is.
# Mean difference in levels of 255 on sharp frames (DAVIS at half size; on frames from videos it is half of that):
#   shrink factor                        0.8   1.15  1.3   1.5   1.75  1.9   2.25  2.5
#   Pillow's bilinear                    1.00  1.23  1.29  1.49  1.50  1.51  1.56  1.62
#   cubic (OpenCV has no antialiasing)   0.57  0.89  1.41  2.00  2.71  3.08  3.90  4.36
#   linear                               1.03  0.95  1.05  1.11  1.64  1.98  2.65  3.00
#   linear to twice the size, 2x2 means  1.32  1.38  1.23  1.07  0.97  1.00  1.09  1.20  at 2.5 times linear's time
#   area                                 0.99  1.01  0.98  1.00  1.03  1.01  1.04  1.13  at 5 times linear's time
CUBIC_UP_TO, LINEAR_UP_TO, HALVING_UP_TO = 1.2, 1.75, 2.5


class Box(NamedTuple):
    """A crop: left and top edge, width and height, in pixels of the image it is cut from."""

    x: int
    y: int
    w: int
    h: int

    def reduced(self, factor: int, height: int, width: int) -> Box:
        """The nearest box on the same image decoded at 1/factor, given the whole image's height and width.

        Edges move by at most `factor` pixels of the whole image, plus the rim of side % factor pixels that the smaller
        image holds in part only.
        """
        if factor == 1:
            return self
        w, h = min(round(self.w / factor), width // factor), min(round(self.h / factor), height // factor)
        return Box(
            min(round(self.x / factor), width // factor - w), min(round(self.y / factor), height // factor - h), w, h
        )


def random_resized_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Draw a box as torchvision's RandomResizedCrop.get_params does.

    Area uniform in `scale` times the image's, aspect ratio (width / height) uniform in log space, place uniform; after
    ten boxes that do not fit, the largest centred box whose ratio is allowed.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        u_area, u_ratio, u_y, u_x = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u_area)
        aspect = math.exp(log_low + (log_high - log_low) * u_ratio)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(u_x * (width - w + 1)), int(u_y * (height - h + 1)), w, h)
    return centre_box(height, width, ratio)


def centre_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """The largest centred box whose aspect ratio lies in `ratio`: the whole image when its own does."""
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def cut(image: np.ndarray, box: Box, size_px: int) -> np.ndarray:
    """The box of an image (H, W, 3), resized to (size_px, size_px, 3) by the filter that suits the shrink factor."""
    piece = image[box.y : box.y + box.h, box.x : box.x + box.w]
    shrink = math.sqrt(box.w * box.h) / size_px
    if shrink <= CUBIC_UP_TO:
        return cv2.resize(piece, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    if shrink <= LINEAR_UP_TO:
        return cv2.resize(piece, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    if shrink <= HALVING_UP_TO:
        piece = cv2.resize(piece, (2 * size_px, 2 * size_px), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(piece, (size_px, size_px), interpolation=cv2.INTER_AREA)


def decode_factor(boxes: list[tuple[Box, int]]) -> int:
    """How much smaller an image may be decoded so that no (box, side of its view) is scaled up for that reason."""
    room = min(min(box.w, box.h) / size_px for box, size_px in boxes)
    return next((factor for factor in DECODE_FACTORS if factor <= room), 1)
