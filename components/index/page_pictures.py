"""The pictures on the page: sampled rows of each draw, cuts, and single frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np

from components.common.frame_store import FrameStore
from components.index.config import SheetParams
from components.index.contact_sheet import Cell, label, sampled_frames, sampled_rows, small_picture
from components.index.objects import Shared
from components.index.page import Group, Tile
from components.index.table import FrameTable

WIDEST = 16 / 9  # a wider picture is lower than the others
CUTS = 8  # shown at most


def groups(
    table: FrameTable,
    store: FrameStore,
    draws: Mapping[str, np.ndarray],
    params: SheetParams,
    seed: int,
    shared: Mapping[str, Shared],
) -> list[Group]:
    """All pictures; same index and seed, same pictures."""
    generator = np.random.default_rng(seed)

    def shown(cells: Sequence[Sequence[Cell]]) -> list[list[Tile]]:
        return [[_tile(store, table, cell, params) for cell in row] for row in cells]

    found = []
    for name, rows in sorted(draws.items()):
        if rows.shape[1] > 1 or name in shared:
            by = shared.get(name)
            note = "Rows as they may be drawn, side by side; under each frame, the time since the one before."
            note += f" Boxes: what its frames share by {by}." if by else ""
            cells = sampled_rows(table, rows, params.draws, generator, by)
            found.append(Group(f"Draw “{name}”", note, shown(cells)))
    note = (
        "The last frame before a cut and the first after it. No row crosses one; a cut inside a shot is a false mark."
    )
    found.append(Group("Cuts found", note, shown(_cuts(table, generator)), "cut"))
    cells = [[cell] for cell in sampled_frames(table, params.frames, generator)]
    found.append(Group("Single frames", "Of evenly spread videos.", shown(cells)))
    return found


def _cuts(table: FrameTable, generator: np.random.Generator) -> list[list[Cell]]:
    """Frames on both sides of some cuts, drawn at random."""
    inside = np.diff(table.columns["video"], prepend=-1) == 0
    after = np.flatnonzero(table.columns["cut"].astype(bool) & inside)
    if len(after) > CUTS:
        after = np.sort(generator.choice(after, CUTS, replace=False))
    pts_s = table.columns["pts_s"]
    return [
        [Cell(frame - 1, label(table, frame - 1)), Cell(frame, f"cut, {pts_s[frame] - pts_s[frame - 1]:+.3f} s")]
        for frame in after.tolist()
    ]


def _tile(store: FrameStore, table: FrameTable, cell: Cell, params: SheetParams) -> Tile:
    picture = small_picture(store, table, cell, (round(params.tile_px * WIDEST), params.tile_px))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=params.quality)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Tile(f"data:image/jpeg;base64,{data}", *picture.size, cell.text)
