"""Pretraining: steps, operations, loader work, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.common.config import section_of
from components.common.errors import StageError
from pipelines.forecast.counts import Count, count_of
from pipelines.forecast.frames import Frames
from pipelines.forecast.index import Index
from pipelines.forecast.rates import Rates
from pipelines.forecast.work import Artifact, Work

ORDER_BYTES = 8  # int64 a row of the draw, for each epoch's order (components/pretrain/sampler.py)
MODEL_FILES, MODEL_SMALL_BYTES = 8, 60_000  # config, card, curves, load snippet, pictures
# Defaults of components.pretrain.config that a recipe may leave out (a test compares them).
TRAINER = {
    "batch_size": 1024, "epochs": 100, "max_steps": None, "budget": None, "warmup_epochs": 10, "workers": 10,
    "compile": False,
}  # fmt: skip


def pretrain(
    document: Mapping[str, Any], key: str, frames: Frames, index: Index, model: str, rates: Rates
) -> tuple[Count, Work]:
    """One method's training run.

    Raises:
        StageError: the index has no such draw, or too few rows for one batch.
    """
    count = count_of(document, key)
    trainer = {**TRAINER, **section_of(document, "pretrain", key).get("trainer", {})}
    n_steps = steps(index.rows.get(count.draw), trainer, key, count.draw, count.frames, count.flops)
    samples = n_steps * int(trainer["batch_size"])
    out = Artifact(count.model_bytes + MODEL_SMALL_BYTES, MODEL_FILES)
    workers = max(int(trainer["workers"]), 1)
    shm = workers * rates.loader.prefetch_batches * int(trainer["batch_size"]) * count.view_px * 3
    order = rates.loader.orders_held * ORDER_BYTES * index.rows[count.draw]
    return count, Work(
        start_s=rates.machine.start_train_s,
        core_s=samples * sample_core_s(count, frames, rates) + n_steps * rates.train.step_core_s,
        flops=samples * count.flops,
        compiled=bool(trainer["compile"]),
        width=workers,
        memory_bytes=rates.train.process_bytes + workers * rates.loader.worker_bytes + order + shm,
        shm_bytes=shm,
        scratch_bytes=2 * count.checkpoint_bytes if n_steps else 0,
        outs={model: out},
        facts={"steps": n_steps, "samples": samples, "order_bytes": order},
    )


def steps(rows: float | None, trainer: Mapping[str, Any], key: str, draw: str, images: int = 1, flops: int = 0) -> int:
    """Optimiser steps: whole batches of each epoch, ended by `max_steps`, or what the budget comes to.

    What the stage refuses is refused here.

    Args:
        rows: of the draw.
        trainer: the trainer's parameters.
        key: of the method.
        draw: its name.
        images, flops: frames and operations of one sample, in which a budget may be.
    """
    batch, limit = int(trainer["batch_size"]), trainer["max_steps"]
    if rows is None:
        raise StageError(f"'{key}' needs the draw '{draw}', which the index will not have", where="index.draws")
    if rows < batch:
        what = f"'{key}' needs {batch} rows of the draw '{draw}' for one batch, the index will hold {rows:.0f}"
        raise StageError(what, where="index.draws", do="more videos, a smaller batch, or another draw")
    total = round(float(trainer["epochs"]) * (rows // batch))
    total = min(total, int(limit)) if limit is not None else total
    if total and trainer.get("budget") is not None:
        total = _budget_steps(trainer["budget"], batch, images, flops, key)
    warmup = round(float(trainer["warmup_epochs"]) * (rows // batch))
    if 0 < total <= warmup:
        what = f"the warm-up of '{key}' takes {warmup:,} steps, the whole run {total:,}"
        raise StageError(what, where="pretrain", do="lower trainer.warmup_epochs or raise trainer.max_steps")
    return total


def _budget_steps(budget: Mapping[str, Any], batch: int, images: int, flops: int, key: str) -> int:
    unit = str(budget["unit"])
    if unit == "seconds":
        what = f"the budget of '{key}' is in seconds: how many steps it comes to is measured when the run begins"
        raise StageError(what, where="pretrain", do="forecast it with a budget in steps, samples, images or flops")
    size = {"steps": 1, "samples": batch, "images": batch * images, "flops": batch * flops}[unit]
    return max(math.floor(float(budget["amount"]) / size + 0.5), 1)


def sample_core_s(count: Count, frames: Frames, rates: Rates) -> float:
    """Seconds of one core from bytes on disk to the views of one sample."""
    rate = rates.loader
    decode = frames.width_px * frames.height_px / rate.decode_px_per_s + rate.frame_core_s
    return count.frames * decode + count.views * rate.view_core_s + count.view_px / rate.view_px_per_s


def gpu_seconds_per_sample(count: Count, rates: Rates, device: str, compiled: bool = True) -> float:
    """Seconds of one device for one training sample."""
    found = rates.devices[device]
    return count.flops / (found.peak_flops * (found.share_compiled if compiled else found.share_eager))
