"""Evaluation: frozen features of a benchmark's pictures, and what a task does with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.forecast.counts import Count
from pipelines.forecast.rates import Benchmark, Rates
from pipelines.forecast.work import Artifact, Work

COUNTED = frozenset({"knn", "vos", "voc_linear"})  # their work beside the encoder was measured, too
PASSES_OF_TRAINING = 3  # a backward pass costs two forward ones
FLOAT_BYTES = 4
ANIMATION_BYTES = 4 * 750_000  # of the sample; real frames compress alike at the same width


@dataclass(frozen=True)
class Usual:
    """Published constants of a task, which a recipe may leave out.

    Attributes:
        input_px: short side of what enters the network.
        wide: pictures keep their aspect, else they become squares.
        epochs: passes over the training pictures in which the encoder computes anew (not on kept features).
        iterations, batch_size: the same, told in steps.
    """

    input_px: float = 224
    wide: bool = False
    epochs: float = 0
    iterations: float = 0
    batch_size: float = 16


USUAL = {
    "knn": Usual(224),
    "linear": Usual(224, epochs=100),
    "voc_linear": Usual(448),
    "voc_fcn": Usual(448),
    "ade_linear": Usual(512, iterations=40_000),
    "ade_upernet": Usual(512, iterations=160_000),
    "coco": Usual(800, wide=True, epochs=12),
    "vos": Usual(480, wide=True),
    "pose": Usual(320),
    "parts": Usual(880),
    "tracking": Usual(480, wide=True),
    "video_clustering": Usual(224),
    "voc_clustering": Usual(448),
    "foreground": Usual(448),
    "retrieval": Usual(512),
    "discovery": Usual(375, wide=True),
}
OTHER = Usual()
ESTIMATE = "the encoder's passes alone (one of training counts three); heads, k-means and search are left out"


def vit_flops(tokens: float, dim: int, depth: int, patch_px: int) -> float:
    """Operations of one forward pass of a ViT: projections and MLPs (24 T D^2 a block), attention (4 T^2 D)."""
    return depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim) + 6 * tokens * patch_px**2 * dim


def evaluate(
    task: str, params: Mapping[str, Any], count: Count, benchmark: Benchmark, outs: tuple[str, str], rates: Rates
) -> Work:
    """One encoder judged by one task; of a task that is not `COUNTED` here only the encoder's passes (`ESTIMATE`)."""
    side = input_side(task, params)
    height, width = _size(task, side, benchmark)
    cells = (height // count.patch_px) * (width // count.patch_px)
    pictures = benchmark.train_pictures + benchmark.pictures if task != "vos" else benchmark.pictures
    passes = pictures + PASSES_OF_TRAINING * trained_on(task, params, benchmark)
    flops = passes * vit_flops(cells + 1, count.dim, count.depth, count.patch_px)
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
        core_s=(pictures + trained_on(task, params, benchmark))
        * (rates.judge.picture_core_s + read / rates.judge.picture_px_per_s),
        serial_s=rates.judge.finish_s,
        flops=flops,
        width=pictures,
        memory_bytes=rates.train.process_bytes + kept,
        scratch_bytes=kept,
        outs={metrics: Artifact(1_500), details: _details(task, benchmark)},
        facts={"pictures": pictures, "passes": passes},
    )


def trained_on(task: str, params: Mapping[str, Any], benchmark: Benchmark) -> float:
    """Pictures on which the encoder computes anew while the task trains, counted as often as they are seen."""
    usual = USUAL.get(task, OTHER)
    if task in USUAL and not usual.epochs and not usual.iterations:
        return 0.0  # it has no training, or trains on features that are kept
    if params.get("iterations", usual.iterations):
        return float(params.get("iterations", usual.iterations)) * float(params.get("batch_size", usual.batch_size))
    return float(params.get("epochs", usual.epochs)) * benchmark.train_pictures


def _device(per_s: float, rates: Rates) -> float:
    """Operations that stand for one elementary piece of a task, at the speed of the core it was measured on."""
    return rates.train.cpu_flops / per_s


def input_side(task: str, params: Mapping[str, Any]) -> float:
    """Short side of what enters the network."""
    told = next((params[name] for name in ("input_px", "test_short_px", "crop_px") if params.get(name)), None)
    value = USUAL.get(task, OTHER).input_px if told is None else told
    return float(min(value) if isinstance(value, list | tuple) else value)


def _size(task: str, side: float, benchmark: Benchmark) -> tuple[float, float]:
    """(height, width) entering the network: video keeps its aspect, pictures become squares."""
    if not USUAL.get(task, OTHER).wide:
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
