"""How fast the index is on a synthetic corpus: draws, the search for near fingerprints, opening, reading rows.

python -m bench.index --frames 5000000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from bench.index_scale import building, loader
from components.common.clip_index import COLUMNS, ClipIndex, write_index
from components.index.config import IndexParams
from components.index.draws import build_draw
from components.index.fingerprint import WORDS, near
from components.index.table import FrameTable

T = TypeVar("T")
DRAWS = {
    "frame": {"offsets_s": [0]},
    "pair": {"offsets_s": [0, 0.5]},
    "clip": {"n_frames": 8, "gap_s": 1.0},
    "triple": {"ranges_s": [[-1.0, -0.5], [0.5, 1.0]]},
}


def main() -> None:
    """Print one line a measurement; medians of `--repeats` runs, one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5_000_000)
    parser.add_argument("--frames-per-video", type=int, default=300)
    parser.add_argument("--fps", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--build-frames", type=int, default=0, help="build an index from a frame table of so many rows")
    parser.add_argument("--loader-rows", type=int, default=0, help="open an index of so many rows in a loader worker")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.build_frames:
            building(Path(folder, "built"), args.build_frames, args.frames_per_video, args.fps)
        if args.loader_rows:
            loader(Path(folder, "opened"), args.loader_rows)
    if args.build_frames or args.loader_rows:
        return
    table = synthetic_table(args.frames, args.frames_per_video, args.fps)
    params = IndexParams.model_validate({"draws": DRAWS})
    usable = np.ones(len(table), dtype=bool)
    draws = {}
    for name, draw in params.draws.items():
        seconds, draws[name] = timed(partial(build_draw, name, draw, table, usable, params), args.repeats)
        print(f"draw {name:7} {len(table) / seconds / 1e6:8.2f} M frames/s   {len(draws[name]):>10,} rows")
    search(args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        reading(Path(folder), table, draws["pair"])


def synthetic_table(n_frames: int, per_video: int, fps: float) -> FrameTable:
    """Videos of `per_video` frames with a cut in the middle of every third."""
    frame = np.arange(n_frames)
    video, place = frame // per_video, frame % per_video
    cut = (place == per_video // 2) & (video % 3 == 0)
    breaks = (place == 0) | cut
    columns = {name: np.zeros(n_frames, dtype) for name, dtype in COLUMNS.items() if name not in ("segment", "split")}
    keys = [f"v{number}" for number in range(int(video[-1]) + 1)]
    return FrameTable(
        columns={**columns, "video": video.astype(np.int32), "pts_s": place / fps, "cut": cut},
        segment=(np.cumsum(breaks) - 1).astype(np.int32),
        segment_start=np.flatnonzero(breaks),
        keys=keys,
        identity=keys,
        duration_s=np.full(len(keys), per_video / fps),
        n_bad=0,
    )


def search(repeats: int) -> None:
    """Distances between 2,000 queries and 200,000 fingerprints."""
    rng = np.random.default_rng(0)
    queries, base = (rng.integers(0, 2**64, (n, WORDS), dtype=np.uint64) for n in (2_000, 200_000))
    seconds, _ = timed(lambda: near(queries, base, 36), repeats)
    print(f"near         {len(queries) * len(base) / seconds / 1e6:8.1f} M pairs/s")


def reading(folder: Path, table: FrameTable, pairs: np.ndarray) -> None:
    """Opening an index, and random rows of its pairs: time and private memory of this process."""
    columns = {**table.columns, "segment": table.segment, "split": np.zeros(len(table), np.int8)}
    write_index(folder, {name: columns[name] for name in COLUMNS}, {"pair": pairs})
    before = anonymous_mib()
    start = time.perf_counter()
    index = ClipIndex(folder)
    draw = index.draw("pair")
    opened_s = time.perf_counter() - start
    samples = np.random.default_rng(0).integers(0, len(draw), 20_000).tolist()
    start = time.perf_counter()
    for sample in samples:
        index.rows(draw[sample])
    rows_s = time.perf_counter() - start
    print(f"open         {opened_s * 1e3:8.2f} ms")
    print(f"rows         {len(samples) / rows_s / 1e3:8.1f} k pairs/s")
    print(f"memory       {anonymous_mib() - before:8.2f} MiB more, for an index of {size_mib(folder):.0f} MiB")


def timed(function: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Median seconds of some runs, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def anonymous_mib() -> float:
    """Memory no other process can share: resident minus file-backed pages."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - memory.shared) / 2**20


def size_mib(folder: Path) -> float:
    """Bytes of a folder's files, in MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


if __name__ == "__main__":
    main()
