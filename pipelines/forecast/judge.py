"""Evaluation: frozen features of a benchmark's pictures, and what a task does with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipelines.forecast.counts import Count
from pipelines.forecast.rates import Benchmark, Rates
from pipelines.forecast.work import Artifact, Work

# Published constants that a recipe may leave out.
INPUT_PX = {"knn": 224, "vos": 480, "voc_linear": 448}
FLOAT_BYTES = 4
ANIMATION_BYTES = 4 * 750_000  # of the sample; real frames compress alike at the same width


def vit_flops(tokens: float, dim: int, depth: int, patch_px: int) -> float:
    """Operations of one forward pass of a ViT: projections and MLPs (24 T D^2 a block), attention (4 T^2 D)."""
    return depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim) + 6 * tokens * patch_px**2 * dim


def evaluate(
    task: str, params: Mapping[str, Any], count: Count, benchmark: Benchmark, outs: tuple[str, str], rates: Rates
) -> Work:
    """One encoder judged by one task; a task that is not known here counts its forward passes alone."""
    side = _input_px(task, params)
    height, width = _size(task, side, benchmark)
    cells = (height // count.patch_px) * (width // count.patch_px)
    pictures = benchmark.train_pictures + benchmark.pictures if task != "vos" else benchmark.pictures
    flops = pictures * vit_flops(cells + 1, count.dim, count.depth, count.patch_px)
    if task == "vos":
        flops += (
            pictures
            * cells**2
            * (1 + float(params.get("context_frames", 7)))
            * _device(rates.judge.affinities_per_s, rates)
        )
    if task == "voc_linear":
        grid = float(params.get("label_px", 100)) ** 2 * float(params.get("num_classes") or 21)
        seen = float(params.get("epochs", 50)) * benchmark.train_pictures + benchmark.pictures
        flops += seen * grid * _device(rates.judge.probe_px_per_s, rates)
    read = benchmark.width_px * benchmark.height_px + height * width
    kept = pictures * (cells if task == "voc_linear" else 1) * count.dim * FLOAT_BYTES
    metrics, details = outs
    return Work(
        start_s=rates.machine.start_train_s,
        core_s=pictures * (rates.judge.picture_core_s + read / rates.judge.picture_px_per_s),
        serial_s=rates.judge.finish_s,
        flops=flops,
        width=pictures,
        memory_bytes=rates.train.process_bytes + kept,
        scratch_bytes=kept,
        outs={metrics: Artifact(1_500), details: _details(task, benchmark)},
        facts={"pictures": pictures},
    )


def _device(per_s: float, rates: Rates) -> float:
    """Operations that stand for one elementary piece of a task, at the speed of the core it was measured on."""
    return rates.train.cpu_flops / per_s


def _input_px(task: str, params: Mapping[str, Any]) -> float:
    """Short side of what enters the network."""
    value = params.get("input_px") or params.get("crop_px") or INPUT_PX.get(task, 224)  # null: the pictures' own size
    return float(min(value) if isinstance(value, list | tuple) else value)


def _size(task: str, side: float, benchmark: Benchmark) -> tuple[float, float]:
    """(height, width) entering the network: video keeps its aspect, pictures become squares."""
    if task != "vos":
        return side, side
    short, long = sorted((benchmark.width_px, benchmark.height_px))
    return side, math.floor(side * long / short)


def _details(task: str, benchmark: Benchmark) -> Artifact:
    """Predictions as palette PNGs (some 0.05 bytes a pixel) where the task writes any, tables, pictures."""
    if task == "knn":
        return Artifact(600_000 + 40 * benchmark.pictures, 4)
    area = benchmark.width_px * benchmark.height_px
    fixed = ANIMATION_BYTES if task == "vos" else 300_000
    return Artifact(fixed + 0.05 * area * benchmark.pictures, benchmark.pictures + 6)
