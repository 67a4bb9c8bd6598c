"""The contact sheet: frames of many videos, and sampled rows of each draw side by side with their times."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.common.frame_store import FrameStore
from components.index.config import SheetParams
from components.index.objects import ObjectTable, Shared
from components.index.table import FrameTable

INK, PAPER, GREY = (235, 235, 235), (24, 24, 27), (150, 150, 155)
GAP_PX, TEXT_PX, ASPECT = 6, 12, 4 / 3
COLOURS = ((255, 92, 92), (92, 200, 255), (255, 208, 80), (120, 230, 120), (220, 130, 255), (255, 160, 90))


class Cell(NamedTuple):
    """A frame, what is written under it, and boxes to draw on it: x0, y0, x1, y1 in its pixels, colour."""

    frame: int
    text: str
    boxes: tuple[tuple[list[float], tuple[int, int, int]], ...] = ()


def write_contact_sheet(
    file: Path,
    table: FrameTable,
    store: FrameStore,
    draws: dict[str, np.ndarray],
    params: SheetParams,
    seed: int,
    shared: Mapping[str, Shared] | None = None,
) -> None:
    """Write the sheet as a JPEG; same index and seed, same bytes.

    Args:
        draws: int64 (N, k) by name; those of one frame are covered by the single frames.
        shared: draws whose frames share an object, which is drawn on them, and by what they share it.
    """
    shared = shared or {}
    generator = np.random.default_rng(seed)
    sections = [(f"{len(table)} frames", [[cell] for cell in sampled_frames(table, params.frames, generator)])]
    for name, rows in sorted(draws.items()):  # Kubeflow hands parameters over in another order than the file has
        if rows.shape[1] > 1 or name in shared:
            cells = sampled_rows(table, rows, params.draws, generator, shared.get(name))
            sections.append((f"{name}: {len(rows)} rows", cells))
    _Sheet(store, table, params).render(sections).save(file, "JPEG", quality=params.quality)


def sampled_rows(
    table: FrameTable, rows: np.ndarray, n: int, generator: np.random.Generator, by: Shared | None
) -> list[list[Cell]]:
    """One random row of each of `n` equal parts of a draw, so that many videos are seen."""
    ends = np.arange(n + 1) * len(rows) // n
    chosen = [int(generator.integers(low, high)) for low, high in pairwise(ends.tolist()) if high > low]
    return [_row(table, rows[number], by) for number in chosen]


def sampled_frames(table: FrameTable, n: int, generator: np.random.Generator) -> list[Cell]:
    """`n` random frames of evenly spread videos; several of a video where there are fewer videos than that."""
    start = np.flatnonzero(np.diff(table.columns["video"], prepend=-1))
    end = np.append(start[1:], len(table))
    videos = np.arange(n) * len(start) // max(n, 1)
    frames = np.sort(generator.integers(start[videos], end[videos]))
    return [Cell(frame, label(table, frame)) for frame in frames.tolist()]


def _row(table: FrameTable, frames: np.ndarray, by: Shared | None) -> list[Cell]:
    pts_s = table.columns["pts_s"][frames]
    texts = [label(table, int(frames[0])), *(f"{after - before:+.3f} s" for before, after in pairwise(pts_s))]
    boxes = [()] * len(frames) if by is None or table.objects is None else _boxes(table.objects, frames, by)
    return [Cell(*cell) for cell in zip(frames.tolist(), texts, boxes, strict=True)]


def _boxes(objects: ObjectTable, frames: np.ndarray, by: Shared) -> list[tuple[tuple[list[float], Any], ...]]:
    """Per frame the boxes of the tracks (or categories) that all frames have, each in a colour of its own."""
    names = objects.track if by == "track" else objects.category
    own = [slice(*objects.start[[frame, frame + 1]].tolist()) for frame in frames.tolist()]
    common = set.intersection(*(set(names[part].tolist()) for part in own))
    return [
        tuple(
            (box, COLOURS[name % len(COLOURS)])
            for name, box in zip(names[part].tolist(), objects.box[part].tolist(), strict=True)
            if name in common
        )
        for part in own
    ]


def label(table: FrameTable, frame: int) -> str:
    """Time and video of a frame."""
    key = table.keys[int(table.columns["video"][frame])]
    return f"{table.columns['pts_s'][frame]:.2f} s  {key}"


def small_picture(store: FrameStore, table: FrameTable, cell: Cell, most: tuple[int, int]) -> Image.Image:
    """A frame at most so large (width, height), with the boxes of its objects."""
    shard, offset, size = (int(table.columns[name][cell.frame]) for name in ("shard", "offset", "size"))
    with Image.open(io.BytesIO(store.read(shard, offset, size))) as picture:
        small = picture.convert("RGB")
    width = small.width
    small.thumbnail(most, Image.Resampling.LANCZOS)
    for box, colour in cell.boxes:
        x0, y0, x1, y1 = (round(side * small.width / width) for side in box)
        ImageDraw.Draw(small).rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour)
    return small


class _Sheet:
    """Lays groups of cells out in lines of `columns` cells; a group longer than a line sets the width."""

    def __init__(self, store: FrameStore, table: FrameTable, params: SheetParams) -> None:
        self.store, self.table = store, table
        self.height = params.tile_px
        self.width = round(params.tile_px * ASPECT)
        self.columns = params.columns
        self.font = ImageFont.load_default(TEXT_PX)

    def render(self, sections: list[tuple[str, list[list[Cell]]]]) -> Image.Image:
        """The whole sheet."""
        columns = max([self.columns, *(len(group) for _, groups in sections for group in groups)])
        blocks = [self._section(name, groups, columns) for name, groups in sections if groups]
        height = GAP_PX + sum(block.height + GAP_PX for block in blocks)
        sheet = Image.new("RGB", (columns * (self.width + GAP_PX) + GAP_PX, height), PAPER)
        top = GAP_PX
        for block in blocks:
            sheet.paste(block, (GAP_PX, top))
            top += block.height + GAP_PX
        return sheet

    def _section(self, name: str, groups: list[list[Cell]], columns: int) -> Image.Image:
        head, line = 2 * TEXT_PX, self.height + 2 * TEXT_PX
        per_line = max(1, columns // len(groups[0]))
        lines = -(-len(groups) // per_line)
        block = Image.new("RGB", (columns * (self.width + GAP_PX), head + lines * line), PAPER)
        draw = ImageDraw.Draw(block)
        draw.text((0, TEXT_PX // 2), name, INK, self.font)
        for number, group in enumerate(groups):
            top = head + number // per_line * line
            for place, cell in enumerate(group):
                left = (number % per_line * len(group) + place) * (self.width + GAP_PX)
                block.paste(self._tile(cell), (left, top))
                draw.text((left, top + self.height + 2), self._fitted(cell.text), GREY, self.font)
        return block

    def _fitted(self, text: str) -> str:
        return shortened(text, lambda given: self.font.getlength(given) <= self.width)

    def _tile(self, cell: Cell) -> Image.Image:
        """The frame, whole, centred in its cell, with the boxes of its objects."""
        small = small_picture(self.store, self.table, cell, (self.width, self.height))
        tile = Image.new("RGB", (self.width, self.height), PAPER)
        tile.paste(small, ((self.width - small.width) // 2, (self.height - small.height) // 2))
        return tile


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """A label with as much of its name's end as fits: `1.50 s  ...480p/dog`. Names of one dataset begin alike."""
    if fits(text):
        return text
    time, _, name = text.partition("  ")
    while name and not fits(f"{time}  ...{name}"):
        name = name[1:]
    return f"{time}  ...{name}"
