"""Pictures and label maps from files, with errors a person can act on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.common.errors import StageError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
INDEXED = {"P", "L", "1"}  # Pillow modes whose pixels are numbers, not colours
WIDE = {"I;16", "I"}  # Pillow modes of a 16-bit grey PNG

Array = NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")


def pascal_palette() -> list[int]:
    """The 256 colours of Pascal VOC and DAVIS, flat: bit j of a channel is taken from the index, high bits first."""
    return [
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for index in range(256)
        for channel in range(3)
    ]


def open_image(file: Path) -> Image.Image:
    """A Pillow image, its pixels not read yet; StageError if the file is missing or no picture."""
    try:
        return Image.open(file)
    except FileNotFoundError:
        raise StageError("no such picture", where=file) from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from None


def size_of(file: Path) -> tuple[int, int]:
    """(height, width) from the file's header."""
    with open_image(file) as image:
        return image.height, image.width


def read_rgb(file: Path) -> Image.Image:
    """The picture as RGB, orientation tags ignored as every published protocol does."""
    with open_image(file) as image:
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from None


def read_index(file: Path) -> Array:
    """A label map (H, W) uint8: palette or grey, so that a pixel's value is its label; 16 bits if they hold no more."""
    with open_image(file) as image:
        if image.mode not in INDEXED | WIDE:
            what = f"a label map must be an indexed or grey picture, this one is {image.mode}"
            raise StageError(what, where=file)
        try:
            labels = np.array(image)
        except (OSError, SyntaxError) as error:
            raise _unreadable(file, error) from None
    if image.mode in WIDE and (labels.min() < 0 or labels.max() > 255):
        raise StageError(f"label {labels.max()} in a 16-bit picture, labels are 0 to 255", where=file)
    return labels.astype(np.uint8)


def write_index(file: Path, labels: Array) -> None:
    """Write a label map as an 8-bit PNG with the Pascal palette."""
    image = Image.fromarray(labels)
    image.putpalette(pascal_palette())
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, format="PNG")


def colours_of(labels: Array) -> Array:
    """Palette colours (..., 3) of a label map."""
    return np.array(pascal_palette(), np.uint8).reshape(256, 3)[labels]


def pictures_in(folder: Path) -> list[Path]:
    """The folder's picture files, by name."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith("."))


def folders_in(folder: Path) -> list[Path]:
    """The folder's sub-folders, by name."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def ahead(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`map` over threads, in order, at most a few items ahead of the consumer: memory stays flat.

    Pillow and OpenCV decode without holding the interpreter's lock.
    """
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _unreadable(file: Path, error: Exception) -> StageError:
    reason = "its content is no picture" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    return StageError(f"picture not readable, {reason}", where=file)
