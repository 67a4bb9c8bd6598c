"""Image files: JPEG frames, palette PNGs with DAVIS' or VOC's palette, plain grey PNGs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import ExitCode, StageError

Bytes = NDArray[np.uint8]


def voc_palette() -> NDArray[np.uint8]:
    """(256, 3) PASCAL VOC colours: the bits of the index, spread over red, green and blue."""
    palette = np.zeros((256, 3), np.uint8)
    index = np.arange(256)
    for place in range(3):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette


def davis_palette() -> NDArray[np.uint8]:
    """(256, 3) DAVIS-2017 colours: VOC's with 191 for 192 up to index 21, then greys."""
    palette = voc_palette()
    palette[palette == 192] = 191
    palette[22:] = np.arange(22, 256, dtype=np.uint8)[:, None]
    return palette


def write_indexed(file: Path, labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Palette PNG whose pixel values are `labels` (h, w)."""
    image = Image.fromarray(labels)
    image.putpalette(palette.ravel().tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, format="PNG")


def write_grey(file: Path, labels: NDArray[np.uint8]) -> None:
    """8-bit grey PNG whose pixel values are `labels` (h, w)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(file, format="PNG")


def write_image(file: Path, image: NDArray[np.uint8], jpeg_quality: int) -> None:
    """BGR image (h, w, 3) as .jpg or .png."""
    ok, data = cv2.imencode(
        file.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if file.suffix == ".jpg" else []
    )
    if not ok:
        raise StageError("the image could not be encoded", where=file.name, code=ExitCode.CRASH)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.tobytes())
