"""The training loop by iterations: schedule, groups and moments against formulas, and a resume to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.progress import Progress
from components.evaluate.finetune import Run, Schedule, layer_groups, layer_of, train
from components.evaluate.scene_task import loss_rows, pixel_loss
from components.evaluate.seeds import torch_seeded
from components.evaluate.task import Job

PUBLISHED = Schedule(iterations=160_000, lr=3e-5, warmup_iterations=1500, warmup_ratio=1e-6, power=1.0, min_lr=0.0)


def job(folder: Path) -> Job:
    return Job("test", folder, folder, "cpu", print, lambda total, unit: Progress(total, unit))


def test_schedule_is_poly_times_warm_up() -> None:
    assert PUBLISHED.rate(0) == pytest.approx(3e-5 * 1e-6)
    assert PUBLISHED.rate(750) == pytest.approx(3e-5 * (1 - 750 / 160_000) * 0.5, rel=1e-5)
    assert PUBLISHED.rate(1500) == 3e-5 * (1 - 1500 / 160_000)
    assert PUBLISHED.rate(80_000) == pytest.approx(1.5e-5) and PUBLISHED.rate(160_000) == 0
    assert PUBLISHED.rate(80_000, 2.0) == pytest.approx(1.0)
    bent = Schedule(100, 1.0, 0, 1e-6, power=0.9, min_lr=0.1)
    assert bent.rate(40) == pytest.approx(0.9 * 0.6**0.9 + 0.1)


class Tiny(nn.Module):
    """Names as in a ViT with a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.backbone.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.backbone.patch_embed = nn.Conv2d(3, 4, 2)
        self.backbone.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.backbone.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("decay_positions", [True, False])
def test_groups_decay_with_depth(decay_positions: bool) -> None:
    model = Tiny(12)
    groups = layer_groups(model, 12, 0.9, 0.05, decay_positions)
    found = {id(p): (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == len(list(model.parameters()))  # every parameter once
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.cls", "backbone.pos", "backbone.patch")):
            layer = 0
        elif name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        else:
            layer = 13
        assert layer_of(name, 12) == layer
        vector = "bias" in name or "norm" in name
        token = "token" in name or "pos" in name
        assert found[id(parameter)] == (pytest.approx(0.9 ** (13 - layer)), 0.0 if vector or (token and not decay_positions) else 0.05)  # fmt: skip  # noqa: E501
    model.backbone.requires_grad_(False)
    assert sum(len(g["params"]) for g in layer_groups(model, 12, 0.9, 0.05, True)) == 2


@pytest.mark.parametrize("mean_over_void", [True, False])
def test_loss_and_its_mean(mean_over_void: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 4), generator=generator)
    labels[:, 0] = 255
    terms = [
        -math.log(math.exp(scores[b, labels[b, y, x], y, x]) / sum(math.exp(s) for s in scores[b, :, y, x]))
        for b in range(2) for y in range(1, 4) for x in range(4)
    ]  # fmt: skip
    expected = sum(terms) / (32 if mean_over_void else 24)
    assert float(pixel_loss(scores, labels, mean_over_void)) == pytest.approx(expected, rel=1e-5)
    assert float(pixel_loss(scores, torch.full((2, 9, 7), 255), mean_over_void)) == 0


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 3)
        )


def batches(first: int, total: int) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(first, total):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 4, generator=generator)
        yield x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def run(folder: Path, stop_at: int | None = None, total: int = 40, lr: float = 3e-2) -> tuple[nn.Module, list[float]]:
    model = network()
    groups = [
        {"params": list(model[0].parameters()), "scale": 0.5, "weight_decay": 0.1},
        {"params": [*model[1].parameters(), *model[4].parameters()], "scale": 1.0, "weight_decay": 0.0, "lr": 2 * lr},
    ]
    how = Run(Schedule(total, lr, 5, 1e-6, 1.0, 0.0), (0.9, 0.999), 0, folder / "c.safetensors", 0.0)
    seen = []

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(1)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return model, train(model, groups, lambda n: batches(n, total), loss_of, how, job(folder))


def test_learns_and_a_killed_run_ends_the_same_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = torch.random.get_rng_state()
    whole, losses = run(tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())  # no draw of ours moved the global generator
    assert len(losses) == 40 and sum(losses[-5:]) < 0.75 * sum(losses[:5])
    for stop in (13, 9):  # killed twice
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", stop_at=stop)
    resumed, again = run(tmp_path / "b")
    assert losses == again and not whole.training
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    finished, _ = run(tmp_path / "b", stop_at=1)  # nothing is left to do
    assert torch.equal(finished[0].weight, whole[0].weight)


def test_steps_are_adamw_at_the_groups_rates(tmp_path: Path) -> None:
    """Five steps, written out."""
    model, _ = run(tmp_path, total=5)
    other, schedule = network().train(), Schedule(5, 3e-2, 5, 1e-6, 1.0, 0.0)
    scales = {"0.weight": (0.5, 0.1, 3e-2), "4.weight": (1.0, 0.0, 6e-2)}
    values = {name: p.detach().clone() for name, p in other.named_parameters()}
    m, v = ({name: torch.zeros_like(p) for name, p in values.items()} for _ in range(2))
    for step, (x, y) in enumerate(batches(0, 5)):
        with torch_seeded("cpu", 0, step):
            loss = nn.functional.cross_entropy(torch.func.functional_call(other, {n: p.requires_grad_() for n, p in values.items()}, (x,)), y)  # fmt: skip  # noqa: E501
        grads = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
        for name in values:
            scale, decay, peak = scales.get(name, (0.5, 0.1, 3e-2) if name.startswith("0.") else (1.0, 0.0, 6e-2))
            rate, g = schedule.rate(step, peak) * scale, grads[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            hat = (m[name] / (1 - 0.9 ** (step + 1))) / ((v[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            values[name] = (values[name].detach() * (1 - rate * decay) - rate * hat).detach()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, values[name], atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the loss is no number any more by iteration 40"):
        run(tmp_path, lr=1e30)


def test_loss_table() -> None:
    rows = loss_rows([float(i) for i in range(10)], lambda step: 10.0 - step, n=5)
    assert [r["iteration"] for r in rows] == [2, 4, 6, 8, 10] and [r["loss"] for r in rows] == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert rows[-1]["lr"] == 1.0
