"""A method small enough to check by hand, and batches from memory: the trainer's tests need neither videos nor timm."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from components.common.config import Params
from components.pretrain import parallel
from components.pretrain.budget import cost_of
from components.pretrain.config import GuardParams, PretrainParams, TrainerParams
from components.pretrain.method import Method, Now, StepOutput, register
from components.pretrain.plan import Crop, Photometric, ViewPlan
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Trainer

DIM, PROTOTYPES, SIDE = 6, 8, 4


class Noise(nn.Module):
    """Multiplicative noise while training: stands for stochastic depth (draws from torch's global generator)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * torch.randn_like(x)) if self.training else x


@register
class Toy(Method):
    """DINO on a linear network: student's view 1 predicts the centred teacher's view 0."""

    name = "toy"
    center: Tensor
    sum: Tensor

    class Args(Params):
        noise: bool = True
        poison_at: int = Field(-1, description="step whose loss becomes NaN")
        dead: bool = Field(False, description="teacher features that are all alike")

    def __init__(self, args: Any, build_encoder: Any = None, epochs: float = 1) -> None:
        super().__init__()
        self.args = args
        layers = [nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM)] + ([Noise()] if args.noise else [])
        self.student = nn.ModuleDict({"backbone": nn.Sequential(*layers), "last_layer": nn.Linear(DIM, PROTOTYPES)})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.register_buffer("center", torch.zeros(PROTOTYPES))
        self.register_buffer("sum", torch.zeros(PROTOTYPES), persistent=False)
        self.rows = 0

    @classmethod
    def views(cls, args: Any, patch_px: int) -> ViewPlan:
        return ViewPlan("frame", 1, (Crop("global", SIDE, (0.4, 1.0), (Photometric(), Photometric())),))

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        views = batch["global"][:, :, 0]
        features = self.teacher["backbone"](views[:, 0])
        if self.args.dead:
            features = torch.ones_like(features)
        logits = self.teacher["last_layer"](features)
        self.sum += logits.sum(0).detach()
        self.rows += len(logits)
        target = F.softmax((logits - self.center) / 0.04, -1)
        weights = 1 + torch.rand(PROTOTYPES, generator=now.generator).to(logits.device)  # shared by the whole batch
        student = self.student["last_layer"](self.student["backbone"](views[:, 1]))
        loss = -(weights * target * F.log_softmax(student / 0.1, -1)).sum(-1).mean()
        if now.step == self.args.poison_at:
            loss = loss * float("nan")
        monitors = {"teacher_probs": target.detach(), "features": features.detach()}
        return StepOutput(loss, {"toy": loss.detach()}, monitors)

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        mean = parallel.mean(self.sum / self.rows)
        self.center.lerp_(mean, 0.1)
        self.sum.zero_()
        self.rows = 0

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        return iter(self.student["last_layer"].parameters() if now.epoch < 1 else ())


class MemoryFeed:
    """Random batches, each a function of its step alone; a process takes its slice of the global batch."""

    def __init__(self, batch_size: int, steps_per_epoch: int = 4) -> None:
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch

    def batches(self, first_step: int, end: int) -> Iterator[dict[str, Tensor]]:
        for step in range(first_step, end):
            generator = torch.Generator().manual_seed(1000 + step)
            views = torch.randn(self.batch_size, 2, 1, 3, SIDE, SIDE, generator=generator)
            share = self.batch_size // parallel.world_size()
            first = parallel.rank() * share
            yield {"global": views[first : first + share]}


def toy_params(
    guards: dict[str, Any] | None = None, args: dict[str, Any] | None = None, **trainer: Any
) -> PretrainParams:
    """Parameters of a run of seconds; `trainer` overrides single values."""
    values = {
        "batch_size": 8,
        "epochs": 3,
        "warmup_epochs": 1,
        "lr": 0.3,
        "log_every_steps": 4,
        "checkpoint_every_s": 0,
        "workers": 0,
        "precision": "float32",
        **trainer,
    }
    return PretrainParams(
        method="toy",
        trainer=TrainerParams(**values),
        guards=GuardParams(**(guards or {})),
        args=Toy.Args(**(args or {})),
    )


def toy_trainer(params: PretrainParams, store: Any = None, **kwargs: Any) -> Trainer:
    """A trainer at step 0, always with the same weights."""
    cost = cost_of(Toy(params.args), Toy.views(params.args, SIDE))
    torch.manual_seed(7)
    feed = MemoryFeed(params.trainer.batch_size)
    schedule = Schedule.plan(params.trainer, feed.steps_per_epoch)
    return Trainer(Toy(params.args), params, schedule, feed, cost, store, **kwargs)
