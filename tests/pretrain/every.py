"""All methods at the size of a test, in the real trainer on a drawn corpus: what must hold whatever the method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from components.common.config import parse
from components.pretrain.budget import Cost
from components.pretrain.checkpoint import CheckpointStore
from components.pretrain.clock import Batch
from components.pretrain.config import PretrainParams, find_method, params_model
from components.pretrain.data import ClipDataset
from components.pretrain.feed import StoreFeed
from components.pretrain.run import build_method, view_plan
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Trainer

CPU = torch.device("cpu")
ENCODER = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3},
}
HEAD = {"out_dim": 16, "hidden_dim": 16, "bottleneck_dim": 8}
VIEWS = {"global_size_px": 32, "local_size_px": 16, "local_crops": 2}
IBOT = {**HEAD, **VIEWS, "warmup_teacher_temp_epochs": 0, "warmup_patch_temp_epochs": 0}
TIMET = {"global_size_px": 32, "out_dim": 6, "hidden_dims": (16,), "bottleneck_dim": 8, "trainable_blocks": 1}

# One entry a method, and further ones (`method:what`) for options that change what a step does.
ARGS: dict[str, dict[str, Any]] = {
    "dino": {**HEAD, **VIEWS},
    "next_frame": {
        **HEAD, **VIEWS, "clip_crop_px": 48, "patch_out_dim": 16, "warmup_patch_temp_epochs": 0, "predictor_depth": 1,
    },
    "dora": {**HEAD, **VIEWS, "clip_crop_px": 48, "n_frames": 4, "n_objects": 2},
    "ibot": IBOT,
    "ibot:separate_heads": {**IBOT, "shared_head": False, "shared_head_teacher": False, "patch_out_dim": 12},
    "cross_time_ibot": {**IBOT, "lambda_timepatch": 0.5},
    "odis": {**IBOT, "objects": "teacher"},
    "cross_time_odis": {**IBOT, "objects": "teacher", "lambda_time": 1.0, "lambda_cls": 0.5},
    "timet": TIMET,
    "timet:options": {**TIMET, "ema": True, "queue": 24, "queue_per_clip": 2, "foreground": True},
    "tcore": {
        **HEAD, **VIEWS, "warmup_teacher_temp_epochs": 0, "koleo_group": 2, "matching_heads": 3, "mask_share": 0.5,
    },
}  # fmt: skip


def method_of(entry: str) -> str:
    return entry.partition(":")[0]


def params(
    entry: str, args: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None, **trainer: Any
) -> PretrainParams:
    """A run of four steps of an entry of ARGS; `trainer`, `args` and the encoder's `model_args` override."""
    method = method_of(entry)
    section = {
        "seed": 3,
        "method": method,
        "encoder": {**ENCODER, "model_args": {**ENCODER["model_args"], **(encoder or {})}},  # type: ignore[dict-item]
        "trainer": {"batch_size": 8, "max_steps": 4, "warmup_epochs": 0, "workers": 0, "log_every_steps": 2, **trainer},
        "args": {**ARGS[entry], **(args or {})},
    }
    model: Any = parse(params_model(method, section), section, "test")
    return model


def quiet(entry: str) -> dict[str, Any]:
    """Arguments without random numbers of the network, whose order depends on how a batch is shared out."""
    return _where_known(entry, drop_path=0.0)


def unfrozen(entry: str) -> dict[str, Any]:
    """Arguments with which everything learns from the first step."""
    return _where_known(entry, freeze_last_layer_epochs=0)


def _where_known(entry: str, **args: Any) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name in find_method(method_of(entry)).Args.model_fields}


class DoubleFeed(StoreFeed):
    """The same batches in float64, so that equal means equal."""

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        for batch in super().batches(first_step, end):
            yield {name: part.double() if part.is_floating_point() else part for name, part in batch.items()}


def trainer_of(
    params: PretrainParams, corpus: tuple[Path, Path], double: bool = False, store: CheckpointStore | None = None
) -> Trainer:
    """A trainer at step 0, whose operations nobody counted."""
    dataset = ClipDataset(*corpus, view_plan(params), params.seed)
    feed = (DoubleFeed if double else StoreFeed)(dataset, params, CPU)
    schedule = Schedule.plan(params.trainer, feed.steps_per_epoch)
    method = build_method(params, schedule.epochs)
    return Trainer(method.double() if double else method, params, schedule, feed, Cost(), store, warn=lambda _: None)


def assert_equal_methods(one: dict[str, Any], other: dict[str, Any], rtol: float = 1e-5, atol: float = 1e-9) -> None:
    """All weights and statistics of two methods agree."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")
