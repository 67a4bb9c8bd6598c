"""Pictures of a split beside their true and predicted label maps, with a legend of the classes that are seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.evaluate.images import colours_of, read_index, read_rgb
from components.evaluate.sheets import GAP, INK, PAPER, comparison_sheet, overlay, spread

SQUARE, LINE, FONT_PX = 12, 20, 12  # pixels of the legend
VOID = 255


class Split(Protocol):
    """What a layout reads: names, pictures and label maps, in one order."""

    @property
    def names(self) -> list[str]: ...
    @property
    def images(self) -> list[Path]: ...
    @property
    def masks(self) -> list[Path]: ...


def draw(file: Path, split: Split, predictions: Path, n: int, classes: Mapping[int, str]) -> None:
    """`n` pictures spread over the split: image, truth, prediction (`predictions/<name>.png`).

    Args:
        classes: name by label, as the files number them; a label without one is not in the legend.
    """
    rows, seen = [], set()
    for i in spread(len(split.names), n):
        image = np.array(read_rgb(split.images[i]))
        maps = [read_index(split.masks[i]), read_index(predictions / f"{split.names[i]}.png")]
        seen |= {int(label) for labels in maps for label in np.unique(labels)} - {0, VOID}
        rows.append((image, *(overlay(image, labels) for labels in maps)))
    if rows:
        sheet = comparison_sheet(("image", "truth", "prediction"), rows)
        with_legend(sheet, {label: classes[label] for label in sorted(seen) if label in classes}).save(file)


def with_legend(sheet: Image.Image, classes: Mapping[int, str]) -> Image.Image:
    """The sheet with a coloured square and the name of each class below it, as many to a line as fit."""
    font = ImageFont.load_default(FONT_PX)
    places, x, y = [], GAP, sheet.height
    for label, name in classes.items():
        width = SQUARE + 4 + int(font.getlength(name)) + 2 * GAP
        if x > GAP and x + width > sheet.width:
            x, y = GAP, y + LINE
        places.append((x, y, label, name))
        x += width
    out = Image.new("RGB", (sheet.width, (y + LINE if places else y)), PAPER)
    out.paste(sheet, (0, 0))
    pen = ImageDraw.Draw(out)
    for x, y, label, name in places:
        colour = tuple(int(c) for c in colours_of(np.array(label, np.uint8)))
        pen.rectangle((x, y + 2, x + SQUARE, y + 2 + SQUARE), fill=colour)
        pen.text((x + SQUARE + 4, y + 1), name, fill=INK, font=font)
    return out
