"""Pictures of results: contact sheets and animations, the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components.evaluate.images import colours_of

Array = NDArray[np.uint8]
Neighbour = tuple[Array, str, float]  # picture, class, similarity

TILE, GAP, CAPTION = 112, 8, 18  # pixels of a contact sheet
PAPER, INK, RIGHT, WRONG = (250, 250, 248), (40, 40, 40), (46, 139, 87), (200, 60, 50)
SHARE_OF_COLOUR = 0.55  # of the label's colour where it covers the picture


def spread(n: int, shown: int) -> list[int]:
    """Numbers of at most `shown` of n pictures, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, shown).astype(int)).tolist() if n else []


def overlay(image: Array, labels: Array) -> Array:
    """The picture with its labels (of any size) in colour; 0 and void (255) stay clear, contours are drawn white."""
    labels = np.asarray(cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    shown = (labels > 0) & (labels < 255)
    mixed = image * (1 - SHARE_OF_COLOUR) + colours_of(labels) * SHARE_OF_COLOUR
    out = np.where(shown[..., None], mixed, image).astype(np.uint8)
    contour = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    out[contour & shown] = 255
    return out


def neighbour_sheet(rows: Sequence[tuple[Array, str, list[Neighbour]]]) -> Image.Image:
    """One row per query: the query, then its neighbours, framed green where the class agrees."""
    width = max(len(neighbours) for _, _, neighbours in rows) + 1
    step = TILE + GAP
    sheet = Image.new("RGB", (GAP + width * step + GAP, GAP + len(rows) * (step + CAPTION)), PAPER)
    for y, (query, name, neighbours) in enumerate(rows):
        top = GAP + y * (step + CAPTION)
        _tile(sheet, query, GAP, top, name, INK)
        for x, (picture, label, similarity) in enumerate(neighbours, start=1):
            colour = RIGHT if label == name else WRONG
            _tile(sheet, picture, 2 * GAP + x * step, top, f"{label} {similarity:.2f}", colour)
    return sheet


def comparison_sheet(columns: Sequence[str], rows: Sequence[Sequence[Array]], height: int = 160) -> Image.Image:
    """A grid of pictures with a heading per column; rows keep their pictures' shape."""
    scaled = [[_to_height(picture, height) for picture in row] for row in rows]
    widths = [max(row[i].shape[1] for row in scaled) for i in range(len(columns))]
    size = (GAP + sum(w + GAP for w in widths), CAPTION + GAP + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    left = GAP
    for i, (heading, width) in enumerate(zip(columns, widths, strict=True)):
        _text(sheet, (left, GAP // 2), heading, INK)
        for y, row in enumerate(scaled):
            sheet.paste(Image.fromarray(row[i]), (left, CAPTION + GAP + y * (height + GAP)))
        left += width + GAP
    return sheet


def write_gif(file: Path, frames: Sequence[Array], frame_ms: int) -> None:
    """An endless animation of equal-sized RGB frames, one palette for all of them so that colours do not flicker."""
    strip = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = strip.quantize(128, method=Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    images[0].save(file, save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=False)


def beside(left: Array, right: Array, headings: tuple[str, str]) -> Array:
    """Two equal-sized pictures side by side under their headings."""
    height, width = left.shape[:2]
    sheet = Image.new("RGB", (2 * width + GAP, height + CAPTION), PAPER)
    for x, (picture, heading) in enumerate(zip((left, right), headings, strict=True)):
        sheet.paste(Image.fromarray(picture), (x * (width + GAP), CAPTION))
        _text(sheet, (x * (width + GAP) + 2, 2), heading, INK)
    return np.array(sheet)


def to_width(picture: Array, width: int) -> Array:
    """Scaled to `width` pixels, never enlarged."""
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


def _tile(sheet: Image.Image, picture: Array, left: int, top: int, caption: str, colour: tuple[int, int, int]) -> None:
    tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC)
    ImageDraw.Draw(sheet).rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), fill=colour)
    sheet.paste(tile, (left, top))
    _text(sheet, (left, top + TILE + 5), caption[:20], colour)


def _text(sheet: Image.Image, place: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    ImageDraw.Draw(sheet).text(place, text, fill=colour, font=ImageFont.load_default(12))


def _to_height(picture: Array, height: int) -> Array:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    shrinking = picture.shape[0] > height
    how = cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))
