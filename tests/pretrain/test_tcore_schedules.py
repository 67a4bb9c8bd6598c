"""What changes from step to step in T-CoRe, in the real trainer, against tables written out as DINOv2's code does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every import params
from torch import Tensor

from components.pretrain.budget import Cost
from components.pretrain.method import Now
from components.pretrain.run import build_method
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Batch, Trainer
from components.pretrain.window import Window

EPOCHS, PER_EPOCH = 4, 2
TOTAL = EPOCHS * PER_EPOCH


class Drawn:
    """Random views of two samples, one of four views masked."""

    steps_per_epoch = PER_EPOCH

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        for step in range(first_step, end):
            generator = torch.Generator().manual_seed(step)

            def normal(*lead: int, side: int, generator: torch.Generator = generator) -> Tensor:
                return torch.randn(2, *lead, 3, side, side, generator=generator, dtype=torch.float64)

            mask = torch.zeros(2, 2, 1, 4, 4, dtype=torch.bool)
            mask[step % 2, 0, 0, :2, 1:3] = True
            views = {"global": normal(2, 1, side=32), "around": normal(2, 2, side=32), "local": normal(2, 1, side=16)}
            yield views | {"global_mask": mask}


def trainer(**args: Any) -> Trainer:
    rates = {"lr": 0.05, "lr_rule": "sqrt", "lr_batch": 1024, "min_lr": 1e-4, "clip": "module"}
    section = params("tcore", args, batch_size=2, max_steps=None, epochs=EPOCHS, warmup_epochs=1, **rates)
    schedule = Schedule.plan(section.trainer, PER_EPOCH)
    method = build_method(section, schedule.epochs).double()
    return Trainer(method, section, schedule, Drawn(), Cost(), warn=lambda _: None)


def table(base: float, final: float, warmup: int, start: float = 0.0, total: int = TOTAL) -> np.ndarray:
    """linspace, then a cosine over the rest: the whole table at once."""
    rest = np.arange(total - warmup)
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * rest / max(len(rest), 1)))
    return np.concatenate([np.linspace(start, base, warmup), wave])


def rates_of(run: Trainer) -> dict[str, float]:
    """The learning rate of each parameter in the step that was made last."""
    names = {id(p): name for name, p in run.method.student.named_parameters()}
    return {names[id(p)]: group["lr"] for group in run.optimiser.param_groups for p in group["params"]}


def test_rates_of_every_step() -> None:
    run, window = trainer(), Window(8)
    peak = 0.05 * math.sqrt(2 / 1024)
    rate, matching = table(peak, 1e-4, PER_EPOCH), table(0.1 * peak, 1e-4, PER_EPOCH)
    last = rate.copy()
    last[:PER_EPOCH] = 0
    for step, batch in enumerate(run.feed.batches(0, TOTAL)):
        run._one_step(run.method, batch, window)
        found = rates_of(run)
        expected = {
            "head.mlp.0.weight": rate[step],
            "head.last_layer.direction": last[step],
            "head.last_layer.gain": last[step],
            "backbone.blocks.0.attn.qkv.weight": 0.9**2 * rate[step],
            "matching.linear.weight": matching[step],
            "matching.cross.in_proj_bias": matching[step],
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_resting_prototypes_keep_their_moments() -> None:
    """A rate of 0 and no dropped gradients: no weight moves, yet AdamW knows its moments when the epoch ends."""
    run, window = trainer(), Window(8)
    layer: Any = run.method.student["head"].last_layer  # type: ignore[union-attr]
    before, teacher = layer.direction.clone(), run.method.teacher["head"].last_layer.direction.clone()  # type: ignore[union-attr]
    gradients = []
    run.optimiser.register_step_pre_hook(lambda *_: gradients.append(layer.direction.grad.clone()))
    for batch in run.feed.batches(0, PER_EPOCH):
        run._one_step(run.method, batch, window)
    assert torch.equal(layer.direction, before)
    assert torch.equal(run.method.teacher["head"].last_layer.direction, teacher)  # type: ignore[union-attr]
    state = run.optimiser.state[layer.direction]
    first, second = gradients
    torch.testing.assert_close(state["exp_avg"], 0.9 * 0.1 * first + 0.1 * second)
    assert int(state["step"]) == PER_EPOCH and bool(first.any())
    run._one_step(run.method, next(run.feed.batches(PER_EPOCH, TOTAL)), window)
    assert not torch.equal(layer.direction, before)


@pytest.mark.parametrize("warmup", [0, 1, 3, EPOCHS])
def test_the_teacher_temperature_rises_step_by_step(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = trainer(warmup_teacher_temp_epochs=warmup, teacher_temp=0.07, warmup_teacher_temp=0.04), []
    method: Any = run.method
    plain = method._targets

    def targets(features: Tensor, centre: Any, now: Now) -> Any:
        found = plain(features, centre, now)
        seen.append(found.temperature)
        return found

    monkeypatch.setattr(method, "_targets", targets)
    for batch in run.feed.batches(0, TOTAL):
        run._one_step(method, batch, Window(8))
    expected = np.concatenate([np.linspace(0.04, 0.07, warmup * PER_EPOCH), np.full(TOTAL, 0.07)])[:TOTAL]
    assert seen[::2] == seen[1::2] == pytest.approx(expected.tolist())  # class tokens, then patches


def test_without_masked_patches_the_prototypes_learn_from_class_tokens_alone() -> None:
    """A micro-batch may hold none: then nothing of what memory held before may pass for a gradient."""
    [batch] = trainer().feed.batches(0, 1)
    batch["global_mask"] = torch.zeros_like(batch["global_mask"])
    grads = []
    torch.use_deterministic_algorithms(True)  # fills memory that nobody wrote with NaN
    try:
        for weight in (0.0, 1.0):
            run = trainer(w_past=weight, w_future=weight, w_agree=weight, drop_path=0.0)
            output = run.method(batch, run.now())
            output.loss.backward()
            grads.append([p.grad for p in run.method.student["head"].parameters()])  # type: ignore[union-attr]
    finally:
        torch.use_deterministic_algorithms(False)
    for without, with_patches in zip(*grads, strict=True):
        assert bool(without.any())
        torch.testing.assert_close(with_patches, without, rtol=1e-12, atol=1e-15)


def test_rest_survives_a_resume(tmp_path: Path) -> None:
    """A run that stopped within the resting epoch goes on as one that did not."""
    whole, first, second = trainer(), trainer(), trainer()
    batches = list(whole.feed.batches(0, TOTAL))
    for batch in batches[:4]:
        whole._one_step(whole.method, batch, Window(8))
    first._one_step(first.method, batches[0], Window(8))
    torch.save(first.state(), tmp_path / "state.pth")
    second.resume(torch.load(tmp_path / "state.pth", weights_only=True))
    for batch in batches[1:4]:
        second._one_step(second.method, batch, Window(8))
    for a, b in zip(whole.method.state_dict().values(), second.method.state_dict().values(), strict=True):
        assert torch.equal(a, b)
