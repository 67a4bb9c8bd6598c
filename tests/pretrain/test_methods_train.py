"""The real methods in the real trainer, on a drawn corpus: what must hold whatever the method."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.config import parse
from components.pretrain.budget import Cost
from components.pretrain.clock import Batch
from components.pretrain.config import PretrainParams, known_methods, params_model
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
SMALL = {
    "out_dim": 16,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
    "global_size_px": 32,
    "local_size_px": 16,
    "local_crops": 2,
}
ARGS: dict[str, dict[str, Any]] = {
    "dino": {},
    "next_frame": {"clip_crop_px": 48, "patch_out_dim": 16, "warmup_patch_temp_epochs": 0, "predictor_depth": 1},
    "dora": {"clip_crop_px": 48, "n_frames": 4, "n_objects": 2},
}


def params(method: str, args: dict[str, Any] | None = None, **trainer: Any) -> PretrainParams:
    section = {
        "seed": 3,
        "encoder": ENCODER,
        "trainer": {"batch_size": 8, "max_steps": 4, "warmup_epochs": 0, "workers": 0, "log_every_steps": 2, **trainer},
        "args": {**SMALL, **ARGS[method], **(args or {})},
    }
    model: Any = parse(params_model(method, section), section, "test")
    return model


class DoubleFeed(StoreFeed):
    """The same batches in float64, so that equal means equal."""

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        for batch in super().batches(first_step, end):
            yield {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def trainer_of(params: PretrainParams, corpus: tuple[Path, Path], double: bool = False) -> Trainer:
    dataset = ClipDataset(*corpus, view_plan(params), params.seed)
    feed = (DoubleFeed if double else StoreFeed)(dataset, params, CPU)
    schedule = Schedule.plan(params.trainer, feed.steps_per_epoch)
    method = build_method(params, schedule.epochs)
    return Trainer(method.double() if double else method, params, schedule, feed, Cost())


def test_every_method_is_tested_here() -> None:
    assert set(known_methods()) == set(ARGS)


@pytest.mark.parametrize("method", ARGS)
def test_accumulation_equals_the_large_batch(method: str, corpus: tuple[Path, Path]) -> None:
    quiet = {"drop_path": 0.0}
    whole, parts = (trainer_of(params(method, quiet, accumulate=n), corpus, double=True) for n in (1, 2))
    whole.train()
    parts.train()
    other = parts.method.state_dict()
    for name, value in whole.method.state_dict().items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("method", ARGS)
def test_a_resumed_run_repeats_to_the_bit(method: str, corpus: tuple[Path, Path]) -> None:
    whole = trainer_of(params(method), corpus)
    states: list[dict[str, Any]] = []
    whole.train(lambda report: states.append(clone(whole.state())))
    resumed = trainer_of(params(method), corpus)
    resumed.resume(states[0])
    assert resumed.step == 2
    resumed.train()
    assert resumed.curves == whole.curves
    for name, value in whole.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], value), name


def clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: clone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clone(inner) for inner in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("method", ARGS)
def test_training_moves_student_and_teacher_and_reports_both(method: str, corpus: tuple[Path, Path]) -> None:
    trainer = trainer_of(params(method), corpus)
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.train()
    after = trainer.method.state_dict()
    for network in ("student", "teacher"):
        name = f"{network}.backbone.patch_embed.proj.weight"
        assert not torch.equal(before[name], after[name]), network
    assert {"loss", "grad_norm", "teacher_entropy", "teacher_spread", "feature_std", "rankme"} <= set(
        trainer.curves[-1]
    )


def test_all_methods_start_from_the_same_encoder(corpus: tuple[Path, Path]) -> None:
    encoders = [trainer_of(params(method), corpus).method.encoder.state_dict() for method in ARGS]
    for name, value in encoders[0].items():
        assert all(torch.equal(other[name], value) for other in encoders[1:]), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("method", ARGS)
def test_compiled_blocks_give_the_eager_result(method: str, corpus: tuple[Path, Path]) -> None:
    quiet = {"drop_path": 0.0}  # compiled code draws its random numbers in another order
    eager, compiled = (trainer_of(params(method, quiet, compile=on), corpus) for on in (False, True))
    eager.train()
    compiled.train()
    assert eager.method.state_dict().keys() == compiled.method.state_dict().keys()
    for name, value in eager.method.encoder.state_dict().items():
        torch.testing.assert_close(compiled.method.encoder.state_dict()[name], value, rtol=1e-3, atol=1e-4)
