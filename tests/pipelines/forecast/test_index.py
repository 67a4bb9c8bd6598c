"""Rows, bytes and k of the index, against the index's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.clip_index import COLUMNS, write_index
from components.common.columns import save_array
from components.index.config import IndexParams, SheetParams
from components.index.draws import build_draw
from components.index.frame_prints import FRAME_PRINT, sampled_frames
from components.index.table import FrameTable
from pipelines.forecast.corpus import Videos
from pipelines.forecast.frames import Frames, extract
from pipelines.forecast.index import (
    SHEET,
    SMALL_FILES_BYTES,
    build,
    fingerprints,
    frames_drawn,
    rows_of,
    sheet_bytes,
)
from pipelines.forecast.rates import read_rates

RATES = read_rates()
DRAWS: dict[str, Any] = {
    "frame": {"offsets_s": [0]},
    "pair": {"offsets_s": [0, 0.5]},
    "around": {"offsets_s": [-0.5, 0, 0.5]},
    "clip": {"n_frames": 4, "gap_s": 0.5},
    "triple": {"ranges_s": [[-1.0, -0.5], [0.5, 1.0]]},
    "span": {"span": "segment", "min_s": 1.5},
}


def corpus(n: int, video_s: float, source_fps: float, fps: float, cuts_per_s: float = 0.0) -> Frames:
    told = Videos(n, video_s, source_fps, 64, 48, 1e6, cuts_per_s, 2.0, drawn=False, known="test")
    return extract(told, {"fps": fps, "cuts": {}}, RATES)[0]


def table_of(frames: Frames, cut: np.ndarray | None = None) -> FrameTable:
    """The same corpus as the index stage reads it."""
    per, n = len(frames.times_s), frames.videos.n
    video = np.repeat(np.arange(n), per)
    cut = np.zeros(len(video), bool) if cut is None else cut
    breaks = cut | (np.diff(video, prepend=-1) != 0)
    columns = {name: np.zeros(len(video), dtype) for name, dtype in COLUMNS.items()}
    keys = [str(number) for number in range(n)]
    return FrameTable(
        columns={**columns, "video": video.astype(np.int32), "pts_s": np.tile(frames.times_s, n), "cut": cut},
        segment=(np.cumsum(breaks) - 1).astype(np.int32),
        segment_start=np.flatnonzero(breaks),
        keys=keys,
        identity=keys,
        duration_s=np.full(n, frames.videos.video_s),
        n_bad=0,
    )


def real_rows(frames: Frames, draws: dict[str, Any], **params: Any) -> dict[str, np.ndarray]:
    table = table_of(frames)
    checked = IndexParams.model_validate({"draws": draws, **params})
    usable = np.ones(len(table), bool)
    return {name: build_draw(name, draw, table, usable, checked) for name, draw in checked.draws.items()}


@pytest.mark.parametrize("n", [3, 50])
def test_bytes_of_an_index_are_exact(tmp_path: Path, n: int) -> None:
    """Every array, at two sizes, to the byte; the sheet and two small JSON files are the rest."""
    frames = corpus(n, 6.0, 24.0, 4.0)
    draws, table = real_rows(frames, DRAWS), table_of(frames)
    columns = {name: table.columns[name] for name in COLUMNS}
    write_index(tmp_path, columns, draws)
    prints = np.zeros(len(sampled_frames(table, 1.0)), FRAME_PRINT)
    save_array(tmp_path / "fingerprints.npy", prints)
    told, _ = build(frames, {"draws": DRAWS}, [], RATES)
    real = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    small = SMALL_FILES_BYTES + sheet_bytes(told.k, {})
    assert told.folder.bytes - small == real
    assert told.folder.files == len(list(tmp_path.rglob("*.npy"))) + 3


@settings(max_examples=60, deadline=None)
@given(
    source_fps=st.sampled_from([10.0, 12.0, 23.976, 25.0, 29.97, 30.0, 60.0]),
    fps=st.sampled_from([1.0, 2.0, 4.0, 6.0, 8.0, 60.0]),
    video_s=st.floats(3.0, 12.0),
    name=st.sampled_from(sorted(DRAWS)),
    tolerance_s=st.sampled_from([0.01, 0.05, 0.1]),
)
def test_rows_are_those_of_the_stage(
    source_fps: float, fps: float, video_s: float, name: str, tolerance_s: float
) -> None:
    """Without cuts the count is no estimate."""
    frames = corpus(2, video_s, source_fps, fps)
    params = {"draws": {name: DRAWS[name]}, "tolerance_s": tolerance_s}
    told = rows_of(frames, DRAWS[name], params)
    if told == 0:
        with pytest.raises(Exception, match="is empty"):
            real_rows(frames, {name: DRAWS[name]}, tolerance_s=tolerance_s)
    else:
        assert told == len(real_rows(frames, {name: DRAWS[name]}, tolerance_s=tolerance_s)[name])
        assert (
            frames_drawn(DRAWS[name]) == real_rows(frames, {name: DRAWS[name]}, tolerance_s=tolerance_s)[name].shape[1]
        )


@pytest.mark.parametrize("more", [{"max_anchors": 7}, {"anchor_every_s": 1.5}])
def test_thinning(more: dict[str, Any]) -> None:
    frames = corpus(4, 6.0, 24.0, 4.0)
    told = rows_of(frames, DRAWS["pair"], {"draws": DRAWS, **more})
    assert told == len(real_rows(frames, {"pair": DRAWS["pair"]}, **more)["pair"])


def test_cuts_and_held_out_videos_take_rows_away() -> None:
    """Random cuts at a known rate: the expected count is within the noise of 4,000 videos."""
    frames = corpus(4000, 8.0, 24.0, 4.0, cuts_per_s=0.1)
    rng = np.random.default_rng(0)
    table = table_of(frames, cut=rng.random(int(frames.n)) < 1 - np.exp(-0.1 * 0.25))
    params = IndexParams.model_validate({"draws": {"clip": DRAWS["clip"]}})
    real = build_draw("clip", params.draws["clip"], table, np.ones(len(table), bool), params)
    assert rows_of(frames, DRAWS["clip"], {"draws": DRAWS}) == pytest.approx(len(real), rel=0.02)
    assert fingerprints(frames, 1.0) == pytest.approx(len(sampled_frames(table, 1.0)), rel=0.03)
    held = rows_of(frames, DRAWS["clip"], {"draws": DRAWS, "val_share": 0.25})
    assert held == pytest.approx(0.75 * len(real), rel=0.02)


@pytest.mark.parametrize("more", [{}, {"min_s": 2.0}, {"min_frames": 12}, {"min_s": 1.0, "max_s": 2.5}])
def test_spans_between_random_cuts(more: dict[str, Any]) -> None:
    frames = corpus(4000, 8.0, 24.0, 4.0, cuts_per_s=0.1)
    rng = np.random.default_rng(0)
    table = table_of(frames, cut=rng.random(int(frames.n)) < 1 - np.exp(-0.1 * 0.25))
    for span in ("segment", "video"):
        draw = {"span": span, **more}
        params = IndexParams.model_validate({"draws": {"d": draw}})
        real = build_draw("d", params.draws["d"], table, np.ones(len(table), bool), params)
        assert rows_of(frames, draw, {"draws": DRAWS}) == pytest.approx(len(real), rel=0.02)


def test_an_empty_draw_is_told() -> None:
    told, _ = build(corpus(2, 6.0, 25.0, 2.0), {"draws": {"pair": {"offsets_s": [0, 0.7]}}}, [], RATES)
    assert told.empty == ("pair",)


def test_the_sheets_defaults_are_the_stages() -> None:
    default = SheetParams()
    assert {name: getattr(default, name) for name in SHEET} == SHEET
