"""The index at scale: built from a frame table, and opened by a loader worker. Called by `python -m bench.index`.

python -m bench.index --build-frames 5000000 --loader-rows 50000000
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from components.common.clip_index import COLUMNS, DRAW_DTYPE, FORMAT, INDEX_FILE, ClipIndex, write_index
from components.common.frame_store import FRAMES, MANIFEST, VIDEOS, FrameStore
from components.common.frame_store_rows import FRAME_COLUMNS, VIDEO_COLUMNS
from components.index.build import INDEX_COLUMNS
from components.index.config import IndexParams
from components.index.draws import build_draw
from components.index.frame_prints import FRAME_PRINT, sampled_frames
from components.index.split import split_videos
from components.index.statistics import statistics
from components.index.table import read_table

CHUNK = 1 << 22
DRAWN = 20_000  # pairs that the loader worker looks up
MIB = 2**20


def building(folder: Path, n_frames: int, per_video: int, fps: float) -> None:
    """From a store's two tables to the index folder, statistics included; pictures are not looked at."""
    _write_tables(folder / "store", n_frames, per_video, fps)
    draws = {"pair": {"offsets_s": [0, 0.5]}, "clip": {"n_frames": 8, "gap_s": 1.0}, "frame": {"offsets_s": [0]}}
    params = IndexParams.model_validate({"draws": draws})
    begun, steps = time.process_time(), dict[str, float]()

    def step(name: str) -> None:
        steps[name] = time.process_time() - begun - sum(steps.values())

    table = read_table(FrameStore(folder / "store"))
    step("read")
    split = split_videos(table.identity, 0.0, 0)
    usable = split[table.columns["video"]] == 0
    made = {name: build_draw(name, draw, table, usable, params) for name, draw in params.draws.items()}
    step("draws")
    columns = {name: table.columns[name] for name in INDEX_COLUMNS}
    columns |= {"segment": table.segment, "split": split[table.columns["video"]]}
    write_index(folder / "index", columns, made)
    step("write")
    frames = sampled_frames(table, params.fingerprint.every_s)
    prints = np.zeros(len(frames), FRAME_PRINT)
    prints["frame"] = frames
    statistics(table, split, prints, made, params.fingerprint)
    step("statistics")
    total = sum(steps.values())
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps.items())
    print(f"build        {n_frames / total / 1e3:8.0f} k frames/s   {total:.1f} s of a core: {parts}")
    print(f"memory       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB at most, so far")


def loader(folder: Path, rows: int) -> None:
    """A worker of its own opens an index of so many rows and looks pairs up at random."""
    _write_index(folder, rows)
    command = [sys.executable, "-c", f"from bench.index_scale import worker; worker({str(folder)!r})"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB
    print(f"worker       {said['resident']:8.1f} MiB more at most, {said['private']:.1f} of them its own;", end=" ")
    print(f"{rows:,} rows, {size:,.0f} MiB; open {said['open_ms']:.1f} ms, {said['pairs_per_s'] / 1e3:.1f} k pairs/s")


def worker(folder: str) -> None:
    """Peak growth of resident memory while an index is opened and looked into, in MiB."""
    process = psutil.Process()
    before = process.memory_info()
    start = time.perf_counter()
    index = ClipIndex(folder)
    draw = index.draw("pair")
    opened_s = time.perf_counter() - start
    numbers = np.random.default_rng(0).integers(0, len(draw), DRAWN).tolist()
    resident, start = before.rss, time.perf_counter()
    for place, number in enumerate(numbers):
        index.rows(draw[number])
        if place % 7 == 0:  # no multiple of the number of looks after which pages are let go
            resident = max(resident, process.memory_info().rss)
    seconds = time.perf_counter() - start
    after = process.memory_info()
    private = (after.rss - after.shared) - (before.rss - before.shared)
    found = {"resident": (resident - before.rss) / MIB, "private": private / MIB}
    print(json.dumps({**found, "open_ms": opened_s * 1e3, "pairs_per_s": DRAWN / seconds}))


def _write_tables(store: Path, n_frames: int, per_video: int, fps: float) -> None:
    store.mkdir(parents=True)
    videos = -(-n_frames // per_video)
    with pq.ParquetWriter(store / FRAMES, FRAME_COLUMNS) as writer:
        for first in range(0, n_frames, CHUNK):
            frame = np.arange(first, min(first + CHUNK, n_frames))
            place = frame % per_video
            columns = {
                "video": frame // per_video,
                "frame": place,
                "pts_s": place / fps,
                "offset": frame * 24_000,
                "cut": (place == per_video // 2) & (frame // per_video % 3 == 0),
            }
            others = {name: np.full(len(frame), 256) for name in FRAME_COLUMNS.names if name not in columns}
            arrays = [pa.array({**columns, **others}[field.name]).cast(field.type) for field in FRAME_COLUMNS]
            writer.write_table(pa.Table.from_arrays(arrays, schema=FRAME_COLUMNS))
    names = [f"v{number}" for number in range(videos)]
    facts: dict[str, Any] = {
        "video": range(videos),
        "key": names,
        "path": names,
        "sha256": names,
        "status": ["ok"] * videos,
    }
    facts |= {"duration_s": [per_video / fps] * videos, "fps": [fps] * videos, "reason": [""] * videos}
    rest = {name: [1] * videos for name in VIDEO_COLUMNS.names if name not in facts}
    arrays = [pa.array({**facts, **rest}[field.name], field.type) for field in VIDEO_COLUMNS]
    pq.write_table(pa.Table.from_arrays(arrays, schema=VIDEO_COLUMNS), store / VIDEOS)
    (store / MANIFEST).write_text(json.dumps({"format": 1, "frames": n_frames, "videos": videos, "files": {}}))


def _write_index(folder: Path, rows: int) -> None:
    """An index of made-up frames, written piece by piece: the machine need not hold it."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        f"frames/{name}": (dtype, (rows,)) for name, dtype in COLUMNS.items()
    }
    shapes |= {"draws/pair": (DRAW_DTYPE, (rows - 3, 2))}
    for name, (dtype, shape) in shapes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)
        for first in range(0, len(array), CHUNK):
            row = np.arange(first, min(first + CHUNK, len(array)))
            array[first : first + CHUNK] = np.stack([row, row + 3], axis=1) if len(shape) > 1 else row % 100
            array.flush()
        del array
    meta = {"format": FORMAT, "frames": rows, "draws": {"pair": {"rows": rows - 3, "k": 2}}}
    (folder / INDEX_FILE).write_text(json.dumps(meta))
