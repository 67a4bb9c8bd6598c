"""The index: rows of every draw, bytes of every column, memory and time of building it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.clip_index import COLUMNS, DRAW_DTYPE
from pipelines.forecast.frames import Frames
from pipelines.forecast.rates import Benchmark, Rates
from pipelines.forecast.work import Artifact, Work

NPY_HEADER_BYTES, PRINTS_HEADER_BYTES = 128, 192  # the latter names the fields of a fingerprint
FRAME_BYTES = sum(np.dtype(dtype).itemsize for dtype in COLUMNS.values())
ROW_BYTES = np.dtype(DRAW_DTYPE).itemsize
PRINT_BYTES = 8 + 32 + 3 * 4  # frame, 256 bits, texture, two luminances
SMALL_FILES_BYTES = 4_000  # index.json, stats.json
SHEET_BYTES_PER_PX = 0.33  # of the contact sheet, JPEG quality 85
SHEET = {"frames": 24, "draws": 4, "tile_px": 120}  # its defaults


@dataclass(frozen=True)
class Index:
    """The index of a corpus: rows and frames a row by draw, and the folder."""

    rows: dict[str, float]
    k: dict[str, int]
    prints: float
    folder: Artifact
    empty: tuple[str, ...]


def build(frames: Frames, params: Mapping[str, Any], benchmarks: list[Benchmark], rates: Rates) -> tuple[Index, Work]:
    """The index that the stage will write, and the work of building it."""
    draws = params["draws"]
    k = {name: frames_drawn(draw) for name, draw in draws.items()}
    rows = {name: rows_of(frames, draw, params) for name, draw in draws.items()}
    prints = fingerprints(frames, float(params.get("fingerprint", {}).get("every_s", 1.0)))
    size = frames.n * FRAME_BYTES + prints * PRINT_BYTES + sum(rows[name] * k[name] * ROW_BYTES for name in rows)
    arrays = len(COLUMNS) + len(rows)
    size += (
        arrays * NPY_HEADER_BYTES
        + PRINTS_HEADER_BYTES
        + SMALL_FILES_BYTES
        + sheet_bytes(k, params.get("contact_sheet", {}))
    )
    folder = Artifact(size, arrays + 4)
    index = Index(rows, k, prints, folder, tuple(name for name in rows if not rows[name]))
    return index, _work(frames, index, params, benchmarks, rates)


def sheet_bytes(k: Mapping[str, int], params: Mapping[str, Any]) -> float:
    """The contact sheet: single frames, and some rows of every draw of several."""
    given = {**SHEET, **params}
    tiles = given["frames"] + given["draws"] * sum(n for n in k.values() if n > 1)
    return float(tiles * given["tile_px"] ** 2 * 4 / 3 * SHEET_BYTES_PER_PX)


def frames_drawn(draw: Mapping[str, Any]) -> int:
    """Frames in one row of a draw."""
    if "n_frames" in draw:
        return int(draw["n_frames"])
    if "span" in draw:
        return 2  # its first and its last
    return len(draw["offsets_s"]) if "offsets_s" in draw else len(draw["ranges_s"]) + 1


def offsets_of(draw: Mapping[str, Any]) -> list[float]:
    """Times of a row's frames, rising; of a range, its middle; of a span, the least it has. One is 0, the anchor."""
    if "span" in draw:
        return [0.0, max(1.0, float(draw.get("min_s", 0.0)))]
    if "ranges_s" in draw:
        return sorted([0.0, *((low + high) / 2 for low, high in draw["ranges_s"])])
    return list(draw.get("offsets_s") or (step * draw["gap_s"] for step in range(draw["n_frames"])))


def rows_of(frames: Frames, draw: Mapping[str, Any], params: Mapping[str, Any]) -> float:
    """Expected rows of one draw: counted on one video's times, less what hard cuts and held-out videos take away."""
    times, videos = frames.times_s, frames.videos
    kept_share, limit = 1 - float(params.get("val_share", 0.0)), params.get("max_anchors") or math.inf
    if "span" in draw:
        return min(float(limit), _spans(times, videos.cuts_per_s, draw) * kept_share * frames.n / len(times))
    anchors = np.arange(len(times))
    every_s = params.get("anchor_every_s")
    if every_s is not None:
        anchors = anchors[np.diff(np.floor(times / every_s), prepend=-1) > 0]
    good, reach_s = _fits(times, anchors, draw, float(params.get("tolerance_s", 0.05)))
    survive = math.exp(-videos.cuts_per_s * reach_s)  # no cut within the row's span: a Poisson chance
    if draw.get("subset"):
        good = min(good, _of_subset(times, draw))
    return min(float(limit), good * survive * kept_share * frames.n / len(times))


def _of_subset(times: NDArray[np.float64], draw: Mapping[str, Any]) -> int:
    """Rows of one video where few are taken that have no frame in common (components/index/subset.py)."""
    least, most = draw["subset"].get("per_video", (10, 30))
    if len(times) < draw["subset"].get("min_frames", 10):
        return 0
    step_s = (times[-1] - times[0]) / max(len(times) - 1, 1)
    gap = round((max(draw["offsets_s"]) - min(draw["offsets_s"])) / step_s)
    wanted = min(max(len(times) // (gap + 1), least), most)
    return int(min(wanted, len(times) // len(draw["offsets_s"])))


def _spans(times: NDArray[np.float64], cuts_per_s: float, draw: Mapping[str, Any]) -> float:
    """Expected spans of one video: a stretch of m frames or more starts at its first frame, or at any cut before m.

    A piece of a longer stretch counts as a stretch that goes on for the pieces before it.
    """
    n, gap_s = len(times), (times[-1] - times[0]) / max(len(times) - 1, 1)
    least = max(int(draw.get("min_frames", 2)), 1 + math.ceil(draw.get("min_s", 0.0) / gap_s - 1e-6) if n > 1 else 1)
    piece = max(1, math.ceil(draw["max_s"] / gap_s - 1e-6)) if draw.get("max_s") else n
    cut = 1 - math.exp(-cuts_per_s * gap_s) if draw["span"] == "segment" else 0.0
    return sum((1 - cut) ** (m - 1) * (1 + (n - m) * cut) for m in range(least, n + 1, piece))


def _fits(
    times: NDArray[np.float64], anchors: NDArray[np.int64], draw: Mapping[str, Any], tolerance_s: float
) -> tuple[int, float]:
    """(anchors whose wanted frames exist in one uncut video, seconds that a row spans)."""
    good = np.ones(len(anchors), dtype=bool)
    if "ranges_s" in draw:
        for low, high in draw["ranges_s"]:
            first = np.searchsorted(times, times[anchors] + low - 1e-9)
            good &= np.searchsorted(times, times[anchors] + high + 1e-9) > first
        ends = [end for pair in draw["ranges_s"] for end in pair]
        return int(good.sum()), max(0.0, *ends) - min(0.0, *ends)
    offsets = offsets_of(draw)
    for offset in offsets:
        wanted = times[anchors] + offset
        after = np.searchsorted(times, wanted).clip(max=len(times) - 1)
        near = np.minimum(np.abs(times[after] - wanted), np.abs(times[np.maximum(after - 1, 0)] - wanted))
        good &= near <= tolerance_s + 1e-9
    return int(good.sum()), max(offsets) - min(offsets)


def fingerprints(frames: Frames, every_s: float) -> float:
    """Frames that are fingerprinted: the first of every period of every cut-free stretch."""
    per_video = np.unique(np.floor(frames.times_s / every_s)).size
    cuts = frames.videos.cuts_per_s * frames.videos.video_s / 2  # a cut starts a period anew: half a print each
    return min(frames.n, frames.n / len(frames.times_s) * (per_video + cuts))


def memory_bytes(frames: Frames, index: Index, params: Mapping[str, Any], rates: Rates) -> float:
    """Peak memory of the stage: the whole table, all draws, and the largest draw's scratch.

    With `on_leak: exclude` a leak makes every draw anew while the first ones still stand.
    """
    rate = rates.index
    table = frames.n * rate.memory_bytes_per_frame + frames.videos.n * rate.memory_bytes_per_video
    held = sum(index.rows[name] * index.k[name] * ROW_BYTES for name in index.rows)
    copies = 2 if params.get("on_leak", "exclude") == "exclude" else 1
    scratch = max(frames.n * (rate.draw_bytes + k * rate.draw_bytes_per_k) for k in index.k.values())
    return rate.memory_bytes + table + copies * held + scratch


def _work(frames: Frames, index: Index, params: Mapping[str, Any], benchmarks: list[Benchmark], rates: Rates) -> Work:
    rate, prints = rates.index, params.get("fingerprint", {})
    most = float(prints.get("max_images", 20_000))
    checked = sum(min(most, b.train_pictures + b.pictures) for b in benchmarks)
    benchmark_s = sum(
        min(most, b.train_pictures + b.pictures) * _print_core_s(b.width_px * b.height_px, rates) for b in benchmarks
    )
    draws = sum(frames.n * k for k in index.k.values()) * rate.draw_row_s
    serial = frames.n * rate.read_frame_s + draws + frames.videos.n * rate.video_s
    return Work(
        start_s=rates.machine.start_data_s,
        core_s=index.prints * _print_core_s(frames.width_px * frames.height_px, rates) + benchmark_s,
        serial_s=serial + checked * index.prints / rate.pairs_per_s + rate.finish_s,
        width=index.prints + checked,
        memory_bytes=memory_bytes(frames, index, params, rates),
        facts={**{f"rows of {name}": rows for name, rows in index.rows.items()}, "fingerprints": index.prints},
    )


def _print_core_s(pixels: float, rates: Rates) -> float:
    """Seconds of one core for the fingerprint of one picture."""
    return rates.index.fingerprint_core_s + pixels / rates.index.fingerprint_px_per_s
