"""Steps of the real trainer against DINO's released loop, with its own ViT: losses, weights, teacher and centre.

The loop is written out from the released code's order of things (arXiv:2104.14294): views by resolution, pair by pair,
clipping tensor by tensor, gradients of the last layer dropped, AdamW in two groups, then teacher and centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every import ENCODER, params
from reference_vit import draw_weights, forward
from torch import Tensor

from components.common.vit import build_vit, resize_as_dino
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.budget import Cost
from components.pretrain.run import build_method
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Batch, Trainer
from components.pretrain.window import Window

EPOCHS, PER_EPOCH = 3, 2
Weights = dict[str, Tensor]


class Drawn:
    """Random views of three samples."""

    steps_per_epoch = PER_EPOCH

    def __init__(self, local_crops: int) -> None:
        self.local_crops = local_crops

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        for step in range(first_step, end):
            generator = torch.Generator().manual_seed(step)
            sizes = {"global": (2, 32), "local": (self.local_crops, 16)}
            yield {
                name: torch.randn(3, n, 1, 3, side, side, generator=generator, dtype=torch.float64)
                for name, (n, side) in sizes.items() if n
            }  # fmt: skip


def table(base: float, final: float, warmup: int = 0) -> np.ndarray:
    rest = np.arange(EPOCHS * PER_EPOCH - warmup)
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * rest / len(rest)))
    return np.concatenate([np.linspace(0, base, warmup), wave])


def logits(weights: Weights, views: Tensor) -> Tensor:
    """(N, K): the ViT's class token, three layers, unit length, unit prototypes times their gain."""
    backbone = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    x = forward(backbone, views)[:, 0]
    for i in (0, 2, 4):
        x = F.linear(x, weights[f"head.mlp.{i}.weight"], weights[f"head.mlp.{i}.bias"])
        x = F.gelu(x) if i < 4 else x / x.norm(dim=-1, keepdim=True)
    v, gain = weights["head.last_layer.direction"], weights["head.last_layer.gain"]
    return x @ (gain * v / v.norm(dim=-1, keepdim=True)).T


class Released:
    """Student, teacher and centre as dictionaries of tensors."""

    def __init__(self, method: Any) -> None:
        self.student = {name: p.detach().clone().requires_grad_() for name, p in method.student.named_parameters()}
        self.teacher = {name: p.detach().clone() for name, p in method.teacher.named_parameters()}
        self.centre = torch.zeros(1, method.args.out_dim, dtype=torch.float64)
        flat = {name for name, p in self.student.items() if p.ndim == 1 or name.endswith(".bias")}
        groups = [[p for name, p in self.student.items() if (name in flat) == plain] for plain in (False, True)]
        self.optimiser = torch.optim.AdamW([{"params": group} for group in groups])
        self.lr, self.decay = table(0.05 * 3 / 256, 1e-6, PER_EPOCH), table(0.04, 0.4)
        self.momentum, self.temperature = table(0.996, 1.0), [0.04, 0.07, 0.07]

    def step(self, it: int, batch: Batch) -> float:
        epoch, (decayed, plain) = it // PER_EPOCH, self.optimiser.param_groups
        decayed["lr"] = plain["lr"] = self.lr[it]
        decayed["weight_decay"], plain["weight_decay"] = self.decay[it], 0.0
        groups = [torch.cat([group[:, v, 0] for v in range(group.shape[1])]) for group in batch.values()]
        with torch.no_grad():
            told = logits(self.teacher, groups[0])
        targets = ((told - self.centre) / self.temperature[epoch]).softmax(-1).chunk(2)
        seen = [view for group in groups for view in (logits(self.student, group) / 0.1).split(3)]
        pairs = [(q, v) for q in range(2) for v in range(len(seen)) if q != v]
        loss = sum(-(targets[q] * seen[v].log_softmax(-1)).sum(-1).mean() for q, v in pairs) / len(pairs)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        for name, p in self.student.items():
            assert p.grad is not None
            p.grad.mul_(min(1.0, 3.0 / (float(p.grad.norm()) + 1e-6)))
            if epoch < 1 and "last_layer" in name:
                p.grad = None
        self.optimiser.step()
        for name, p in self.teacher.items():
            p.mul_(self.momentum[it]).add_((1 - self.momentum[it]) * self.student[name].detach())
        self.centre = 0.9 * self.centre + 0.1 * told.mean(0, keepdim=True)
        return loss.item()  # type: ignore[union-attr]


@pytest.mark.parametrize("local_crops", [0, 1])
def test_six_steps_of_dino(local_crops: int) -> None:
    args = {"local_crops": local_crops, "drop_path": 0.0, "train_gain": True, "teacher_temp": 0.07}
    args |= {"warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 2}
    section = params("dino", args, batch_size=3, max_steps=None, epochs=EPOCHS, warmup_epochs=1, lr=0.05)
    section = section.model_copy(update={"encoder": section.encoder.model_copy(update={"pos_quirk": True})})
    schedule = Schedule.plan(section.trainer, PER_EPOCH)
    method: Any = build_method(section, schedule.epochs).double()
    run = Trainer(method, section, schedule, Drawn(local_crops), Cost(), warn=lambda _: None)
    released, window = Released(method), Window(8)
    for it, batch in enumerate(run.feed.batches(0, EPOCHS * PER_EPOCH)):
        run._one_step(method, batch, window)
        assert float(window._rows[-1][0]) == pytest.approx(released.step(it, batch), rel=1e-6)
        torch.testing.assert_close(method.centre.value, released.centre[0], rtol=1e-9, atol=1e-12)
        for ours, theirs in ((method.student, released.student), (method.teacher, released.teacher)):
            for name, p in ours.named_parameters():
                # positions are resized in float32; AdamW divides what is near 0 by what is near 0
                torch.testing.assert_close(p, theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_positions_as_dinos_code_resizes_them() -> None:
    weights = draw_weights()
    models = [build_vit(ENCODER["architecture"], ENCODER["model_args"]).eval() for _ in range(2)]  # type: ignore[arg-type]
    for model in models:
        model.load_state_dict(weights)
    resize_as_dino(models[0])
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    for size in ((32, 32), (16, 16), (48, 64)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = forward(weights, images)
        for found, token in ((models[0].forward_features(images), slice(None)), (class_tokens(models[0], images), 0)):
            torch.testing.assert_close(found, expected[:, token], rtol=1e-4, atol=1e-4)
        timm_like = torch.allclose(models[1].forward_features(images), expected, atol=1e-3)
        assert timm_like == (size == (32, 32))


def test_positions_of_registers_stay_in_place() -> None:
    for more in ({}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}):
        facts: dict[str, Any] = {**ENCODER["model_args"], **more}  # type: ignore[dict-item]
        torch.manual_seed(0)
        model = build_vit("vit_tiny_patch16_224", facts).eval()
        images = torch.randn(1, 3, 32, 32)
        plain = model.forward_features(images)
        resize_as_dino(model)
        assert torch.equal(model.forward_features(images), plain)
        assert model.forward_features(images[..., :16]).shape[1] == math.prod((4, 2)) + model.num_prefix_tokens
