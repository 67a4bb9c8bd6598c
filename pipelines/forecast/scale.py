"""The tables of docs/scale.md: one design from ten videos to a hundred million.

Clips of ten seconds, as in Kinetics; extraction and index of recipes/own_videos.yaml, the methods of recipes/published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from components.common.config import read_yaml
from components.common.s3.params import S3Params
from pipelines.forecast import breaks
from pipelines.forecast.breaks import Corpus, Row, leak_search_s, order_bytes
from pipelines.forecast.corpus import Given, benchmark_of, videos_of
from pipelines.forecast.counts import count_of
from pipelines.forecast.frames import extract
from pipelines.forecast.index import build
from pipelines.forecast.limits import HOUR_S
from pipelines.forecast.ranges import pass_bytes, sample_bytes
from pipelines.forecast.rates import Rates
from pipelines.forecast.schedule import work_seconds
from pipelines.forecast.show import duration, size
from pipelines.forecast.train import gpu_seconds_per_sample, sample_core_s
from pipelines.workspace import ROOT, merged_params

RECIPES = ROOT / "recipes"
VIDEOS = (10, 1_000, 100_000, 1_000_000, 100_000_000)
LARGE = VIDEOS[2:]  # below, a pass takes less than an hour
VIDEO_S = 10.0
METHODS = ("dino", "next_frame", "dora")
DEVICE = "h200"
IMAGENET_PASSES = 100 * 1_281_167  # samples of DINO's published run of 100 epochs on ImageNet-1k
PART_S = 2 * HOUR_S  # a part of this length loses little to a kill
EXTRACT_CPUS, INDEX_CPUS = 16, 4  # meta of dvc.yaml

FRAMES = ("videos", "source", "frames", "store", "shards", "extraction", "parts of two hours", "hashed in")
INDEX = (
    "videos",
    "index, mapped",
    "built in",
    "of it leak search",
    "memory to build",
    "a worker's own",
    "epoch's order",
)
COPIES = ("videos", "videos to a pod", "frames to a pod", "index to a pod", "all copies of a run", "a pass by range")
BLOCKS = {"1 MiB": S3Params(), "64 KiB": S3Params(block_mib=1 / 16)}  # the default, and the smallest
GPU = ("method", "GFLOP a sample", "samples/s", "cores to feed it", "reads by range", "100 epochs of ImageNet")
VAST = VIDEOS[-1]  # of whose store a cache holds next to nothing


class Scale:
    """Forecasts by number of videos."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        own = read_yaml(RECIPES / "own_videos.yaml")
        published = {name: merged_params(RECIPES / "published" / f"{name}.yaml", []) for name in METHODS}
        draws: dict[str, Any] = {}
        for document in published.values():
            draws |= document["index"][document["corpus"]]["draws"]
        self.extract_params = own["extract_frames"][own["corpus"]]
        self.index_params = {**own["index"][own["corpus"]], "draws": draws}
        self.benchmarks = [benchmark_of(task, {}, rates) for task in ("knn", "vos", "voc_linear")]
        self.counts = {name: count_of(document, name) for name, document in published.items()}

    def draw_of(self, method: str) -> dict[str, Any]:
        """The draw that a method reads."""
        return dict(self.index_params["draws"][self.counts[method].draw])

    def of(self, n: int) -> Corpus:
        """The corpus of `n` videos."""
        videos = videos_of("clips", {}, self.rates, Given(n, VIDEO_S))
        frames, extraction = extract(videos, self.extract_params, self.rates)
        index, indexing = build(frames, self.index_params, self.benchmarks, self.rates)
        return Corpus(n, frames, index, extraction, indexing)


def page(rates: Rates) -> str:
    """All tables, each between markers that name it."""
    return "\n\n".join(f"<!-- forecast: {name} -->\n{text}\n<!-- end -->" for name, text in tables(rates).items())


def tables(rates: Rates) -> dict[str, str]:
    """Name -> Markdown."""
    scale = Scale(rates)
    corpora = [scale.of(n) for n in VIDEOS]
    gpu_head = (*GPU, *(f"a pass over {n:,}" for n in LARGE))
    return {
        "frames": table(FRAMES, [_frames(c, scale) for c in corpora]),
        "index": table(INDEX, [_index(c, scale) for c in corpora]),
        "copies": table(COPIES, [_copies(c, scale) for c in corpora]),
        "gpu": table(gpu_head, [_gpu(name, scale) for name in METHODS]),
        "breaks": table(breaks.HEAD, breaks.rows(scale.of, rates, scale.benchmarks), figures=False),
    }


def table(head: Row, rows: Iterable[Row], figures: bool = True) -> str:
    """Markdown; the first column is text, the others are figures or text too."""
    rule = ["---", *["---:" if figures else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _frames(c: Corpus, scale: Scale) -> Row:
    return (
        f"{c.n:,}",
        size(c.frames.videos.bytes),
        f"{c.frames.n:,.0f}",
        size(c.frames.store.bytes),
        f"{c.frames.shards:,}",
        f"{duration(c.extraction.core_s)} of a core",
        f"{_parts(c):,}",
        duration(c.frames.store.bytes / scale.rates.machine.hash_bytes_per_s),
    )


def _parts(c: Corpus) -> int:
    return max(1, math.ceil(c.extraction.core_s / EXTRACT_CPUS / PART_S))


def _index(c: Corpus, scale: Scale) -> Row:
    rates = scale.rates
    return (
        f"{c.n:,}",
        size(c.index.folder.bytes),
        duration(work_seconds(c.indexing, INDEX_CPUS, 0, None, rates)),
        duration(leak_search_s(c, rates, scale.benchmarks)),
        size(c.indexing.memory_bytes),
        size(rates.loader.worker_bytes),
        size(order_bytes(max(c.index.rows.values()), rates)),
    )


def _copies(c: Corpus, scale: Scale) -> Row:
    """One run: parts copy all videos; the merge writes, and index, methods and report read, all frames."""
    rate, store, index = scale.rates.machine.copy_bytes_per_s, c.frames.store.bytes, c.index.folder.bytes
    copied = _parts(c) * c.frames.videos.bytes + 3 * store + (len(METHODS) + 1) * (store + index)
    times = (duration(size_ / rate) for size_ in (c.frames.videos.bytes, store, index))
    draw, rows = scale.draw_of(METHODS[0]), c.index.rows[scale.counts[METHODS[0]].draw]
    ranged = [size(pass_bytes(c.frames, draw, rows, s3)) for s3 in BLOCKS.values()]
    return (f"{c.n:,}", *times, size(copied), " or ".join(ranged))


def _gpu(name: str, scale: Scale) -> Row:
    count = scale.counts[name]
    sample_s = gpu_seconds_per_sample(count, scale.rates, DEVICE)
    vast = scale.of(VAST).frames
    reads = [size(sample_bytes(vast, scale.draw_of(name), s3) / sample_s) for s3 in BLOCKS.values()]
    return (
        name,
        f"{count.flops / 1e9:,.0f}",
        f"{1 / sample_s:,.0f}",
        f"{sample_core_s(count, vast, scale.rates) / sample_s:.1f}",
        " or ".join(f"{read}/s" for read in reads),
        gpu_hours(IMAGENET_PASSES * sample_s),
        *(gpu_hours(scale.of(n).index.rows[count.draw] * sample_s) for n in LARGE),
    )


def gpu_hours(seconds: float) -> str:
    """GPU-hours, two digits below ten."""
    hours = seconds / HOUR_S
    return f"{hours:,.0f} GPU-h" if hours >= 10 else f"{hours:.2g} GPU-h"
