"""The contact sheet shows the frames it should, where it should, and the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from components.common.frame_store import FrameStore
from components.index.config import SheetParams
from components.index.contact_sheet import GAP_PX, TEXT_PX, shortened, write_contact_sheet
from components.index.table import FrameTable, read_table

from .conftest import make_store

PARAMS = SheetParams(columns=6, frames=6, draws=2, tile_px=60)


def test_frames_and_pairs_stand_side_by_side(tmp_path: Path) -> None:
    tones = {f"v{tone}": np.full((60, 80, 3), tone, np.uint8) for tone in (40, 120, 200)}
    store = FrameStore(make_store(tmp_path / "frames", tones))
    table = read_table(store)
    pairs = np.array([[0, 3], [12, 15], [24, 27]])
    draws = {"frame": np.arange(36)[:, None], "pair": pairs}
    write_contact_sheet(tmp_path / "sheet.jpg", table, store, draws, PARAMS, seed=0)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        grey = np.asarray(sheet.convert("L"), dtype=int)
    pitch, top = 80 + GAP_PX, GAP_PX + 2 * TEXT_PX + 30  # 4:3 tiles; middle of the first line of pictures
    singles = [grey[top, GAP_PX + place * pitch + 40] for place in range(6)]
    assert np.abs(np.array(singles) - [40, 40, 120, 120, 200, 200]).max() <= 3  # two of each video
    below = GAP_PX + 2 * TEXT_PX + (60 + 2 * TEXT_PX) + GAP_PX + 2 * TEXT_PX + 30
    in_pairs = [grey[below, GAP_PX + place * pitch + 40] for place in range(4)]
    assert abs(in_pairs[0] - in_pairs[1]) <= 2
    assert abs(in_pairs[2] - in_pairs[3]) <= 2
    assert in_pairs[0] + 50 < in_pairs[2]


def test_same_seed_same_bytes(tmp_path: Path, store: FrameStore, table: FrameTable) -> None:
    draws = {"pair": np.stack([np.arange(9), np.arange(9) + 3], axis=1)}
    sheets = []
    for number, seed in enumerate((0, 0, 1)):
        file = tmp_path / f"{number}.jpg"
        write_contact_sheet(file, table, store, draws, PARAMS, seed)
        sheets.append(file.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_a_draw_wider_than_the_sheet_and_fewer_rows_than_asked(
    tmp_path: Path, store: FrameStore, table: FrameTable
) -> None:
    draws = {"clip": np.arange(9)[None, :]}
    write_contact_sheet(tmp_path / "s.jpg", table, store, draws, PARAMS, 0)
    with Image.open(tmp_path / "s.jpg") as sheet:
        assert sheet.width == 9 * (80 + GAP_PX) + GAP_PX


def test_a_label_keeps_the_end_of_its_name():
    def fits(text: str) -> bool:
        return len(text) <= 22

    assert shortened("0.50 s  short", fits) == "0.50 s  short"
    assert shortened("0.50 s  JPEGImages/480p/bear", fits) == "0.50 s  ...s/480p/bear"
    assert shortened("a label without a name that is long", fits).endswith("...")
