"""Where the design gives way as a corpus grows, and what takes over there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.forecast.frames import Frames, memory_bytes
from pipelines.forecast.index import Index
from pipelines.forecast.limits import GIB, HOUR_S
from pipelines.forecast.rates import Benchmark, Rates
from pipelines.forecast.schedule import work_seconds
from pipelines.forecast.train import ORDER_BYTES
from pipelines.forecast.work import Work

Row = Sequence[str]
HEAD = ("what gives way", "limit", "reached at", "what takes over")


@dataclass(frozen=True)
class Corpus:
    """All that is forecast of one size."""

    n: int
    frames: Frames
    index: Index
    extraction: Work
    indexing: Work


@dataclass(frozen=True)
class Check:
    """One limit: `value` grows with the corpus, `most` is what there is."""

    what: str
    limit: str
    most: float
    over: str
    value: Callable[[Corpus], float]


def rows(of: Callable[[int], Corpus], rates: Rates, benchmarks: list[Benchmark]) -> list[Row]:
    """Each limit with the smallest number of videos that is above it, the first one first."""
    found = [(first_above(of, check.value, check.most), check) for check in checks(rates, benchmarks)]
    found.sort(key=lambda pair: pair[0])
    return [(c.what, c.limit, f"{_two_digits(n):,} videos", c.over) for n, c in found]


def checks(rates: Rates, benchmarks: list[Benchmark]) -> list[Check]:
    """Limits of memory and time (from `meta` of dvc.yaml), of disks, and an hour of waiting for bytes."""
    copy, hashing = rates.machine.copy_bytes_per_s, rates.machine.hash_bytes_per_s
    return [
        Check(
            "videos copied to each part of `extract_frames`",
            "an hour",
            HOUR_S,
            "parts that fetch their own videos alone",
            lambda c: c.frames.videos.bytes / copy,
        ),
        Check(
            "frames copied to each pod",
            "an hour",
            HOUR_S,
            "frames as `s3://...`: read by range, in small blocks or with a cache of their size",
            lambda c: c.frames.store.bytes / copy,
        ),
        Check(
            "memory of `index`",
            "16 GiB",
            16 * GIB,
            "several corpora, an index each (sharded index); `max_anchors` bounds the draws, not the table",
            lambda c: c.indexing.memory_bytes,
        ),
        Check(
            "hashing the store, by DVC and by the stage",
            "an hour",
            HOUR_S,
            "parts as outputs of their own, hashed side by side",
            lambda c: c.frames.store.bytes / hashing,
        ),
        Check(
            "`extract_frames` in one pod of 16 cores",
            "72 h",
            72 * HOUR_S,
            "`extract_frames.<corpus>.parts`",
            lambda c: work_seconds(c.extraction, 16, 0, None, rates),
        ),
        Check(
            "memory of `extract_frames` in one part",
            "16 GiB",
            16 * GIB,
            "`parts` cuts the queue, then 0.6 kB a video remain: several corpora",
            lambda c: memory_bytes(c.n, 1, rates),
        ),
        Check(
            "leak search in `index`",
            "12 h",
            12 * HOUR_S,
            "a larger `fingerprint.every_s`; several corpora side by side",
            lambda c: leak_search_s(c, rates, benchmarks),
        ),
        Check(
            "an epoch's order in each training process",
            "16 GiB",
            16 * GIB,
            "`max_anchors`; a permutation that is computed entry by entry",
            lambda c: order_bytes(max(c.index.rows.values()), rates),
        ),
        Check(
            "index on a node's disk",
            "1 TB",
            1e12,
            "several corpora; fewer rows (`anchor_every_s`)",
            lambda c: c.index.folder.bytes,
        ),
    ]


def first_above(of: Callable[[int], Corpus], value: Callable[[Corpus], float], most: float) -> int:
    """The smallest corpus, to a thousandth, for which `value` is above `most`."""
    low, high = 0, 1
    while value(of(high)) <= most:
        low, high = high, 2 * high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if value(of(middle)) > most else (middle, high)
    return high


def leak_search_s(c: Corpus, rates: Rates, benchmarks: list[Benchmark]) -> float:
    """Seconds of comparing benchmark pictures (at most 20,000 each) with every fingerprint."""
    checked = sum(min(20_000, b.train_pictures + b.pictures) for b in benchmarks)
    return checked * c.index.prints / rates.index.pairs_per_s


def order_bytes(rows_drawn: float, rates: Rates) -> float:
    """Memory of the epoch's order in every training process."""
    return rates.loader.orders_held * ORDER_BYTES * rows_drawn


def _two_digits(n: int) -> int:
    """No forecast is better than that."""
    unit = 10 ** max(0, int(math.log10(n)) - 1)
    return round(n / unit) * unit
