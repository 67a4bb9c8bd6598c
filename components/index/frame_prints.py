"""Fingerprints of a corpus: about one frame a second of every video, in blocks that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from components.common.columns import save_array
from components.common.context import Context
from components.common.cores import usable_cores
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.index.config import FingerprintParams
from components.index.fingerprint import FINGERPRINT, UNREADABLE, fingerprint
from components.index.table import US_PER_S, FrameTable, ticks

BLOCK = 2048  # frames between two saves: a few seconds of work
QUEUED = 64  # images in flight a thread, so that memory stays bounded

FRAME_PRINT = np.dtype([("frame", "<i8"), *((name, FINGERPRINT[name]) for name in FINGERPRINT.names or ())])

S = TypeVar("S")
T = TypeVar("T")


def sampled_frames(table: FrameTable, every_s: float) -> np.ndarray:
    """The first frame of every period of `every_s` seconds of each segment: int64, rising.

    Every segment has at least one, so that a shot of a few frames is not overlooked.
    """
    pts = ticks(table.columns["pts_s"])
    period = (pts - pts[table.segment_start[table.segment]]) // round(every_s * US_PER_S)
    new = (np.diff(table.segment, prepend=-1) != 0) | (np.diff(period, prepend=-1) != 0)
    return np.flatnonzero(new)


def frame_prints(table: FrameTable, store: FrameStore, params: FingerprintParams, ctx: Context) -> np.ndarray:
    """`FRAME_PRINT` (N,), one row a sampled frame; raises StageError for a frame that does not decode."""
    frames = sampled_frames(table, params.every_s)
    prints = np.zeros(len(frames), dtype=FRAME_PRINT)
    prints["frame"] = frames
    with ctx.progress(len(frames), "fingerprints") as progress:
        for start in range(0, len(frames), BLOCK):
            block = frames[start : start + BLOCK]
            file = ctx.cache / f"frames-{start:012d}.npy"
            values = cached(file, partial(_prints_of, block, table, store, params.workers))
            for name in FINGERPRINT.names or ():
                prints[name][start : start + BLOCK] = values[name]
            progress.update(len(block))
    return prints


def cached(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `file`, made and saved first where a killed run has not left it."""
    if not file.exists():
        save_array(file, make())
    return np.load(file, allow_pickle=False)


def in_threads(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`map` over threads (decoding releases the GIL) that keeps order and reads `items` only a little ahead."""
    n = workers or usable_cores()
    source = iter(items)
    with ThreadPoolExecutor(n) as pool:
        while chunk := list(islice(source, n * QUEUED)):
            yield from pool.map(function, chunk)


def _prints_of(rows: np.ndarray, table: FrameTable, store: FrameStore, workers: int) -> np.ndarray:
    places = zip(*(table.columns[name][rows].tolist() for name in ("shard", "offset", "size")), strict=True)
    prints = np.array(list(in_threads(lambda place: fingerprint(store.read(*place)), places, workers)))
    bad = rows[prints["texture"] == UNREADABLE]
    if len(bad):
        video, pts_s = int(table.columns["video"][bad[0]]), float(table.columns["pts_s"][bad[0]])
        what = f"a frame does not decode: video {table.keys[video]}, {pts_s:.3f} s"
        where = f"shard {int(table.columns['shard'][bad[0]])} of the frame store"
        raise StageError(what, where=where, do="run extract_frames again")
    return prints
