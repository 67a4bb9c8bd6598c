"""What a method is: a student that learns, a teacher that follows, and one loss.

A method's file holds the paper's algorithm and nothing of the machine: precision, compilation, data parallelism,
accumulation and checkpoints are applied by the trainer from outside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.common.config import Params
from components.pretrain.plan import ViewPlan

EncoderFactory = Callable[..., nn.Module]  # build(drop_path_rate=0.0) -> timm VisionTransformer


@dataclass(frozen=True)
class Now:
    """Where training stands; the same on every rank except `rank_generator`.

    Attributes:
        step: optimiser steps done before this one.
        epoch: whole passes over the draw done before this step.
        epochs: passes planned.
        momentum: weight of the old teacher in this step's EMA.
        generator: CPU generator seeded by (seed, step), equal on all ranks (draws shared by the batch).
        steps_per_epoch: optimiser steps in one pass.
    """

    step: int
    epoch: int
    epochs: float
    momentum: float
    generator: torch.Generator
    steps_per_epoch: int = 1


@dataclass
class StepOutput:
    """Result of one forward pass.

    Attributes:
        loss: scalar to minimise.
        terms: detached scalars by name, as the paper names them.
        monitors: detached tensors for the collapse guards: `teacher_probs` (N, K) and `features` (N, D).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    monitors: dict[str, Tensor]


class Method(nn.Module, ABC):
    """Base of every method.

    Subclasses set `name` and `Args`, build their networks in `__init__(args, build_encoder, epochs)`, and keep every
    trained module under `self.student` and every EMA copy under `self.teacher` (same structure, by name).

    What the trainer takes for granted, so that processes and micro-batches give the numbers of the one large batch:

    - the loss is a mean over the samples of the batch; a statistic of the batch is found in `before_step` (Sinkhorn,
      a queue), or collected in `forward` and brought together in `after_step` (a centre), or is per sample;
    - every tensor of a batch has the samples first;
    - a trained parameter may stay unused in a step (a mask token where nothing is masked): its gradient is then zero,
      and it decays and keeps its moments like any other. Weights that never learn have `requires_grad` False.
    """

    name: ClassVar[str]
    Args: ClassVar[type[Params]]
    student: nn.ModuleDict
    teacher: nn.ModuleDict

    @classmethod
    @abstractmethod
    def views(cls, args: Any, patch_px: int) -> ViewPlan:
        """The views of one sample; masks and objects are told in patches of `patch_px` pixels."""

    @classmethod
    def needs_start(cls, args: Any) -> bool:
        """Whether this is tuning, for which the encoder must have learnt before: the stage refuses random weights."""
        return False

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        """Loss of one micro-batch.

        Args:
            batch: per crop group a normalised float tensor (B, views, frames, 3, S, S), its geometry under
                `<crop>_box`, and where the plan asks for them `<crop>_mask` and `<crop>_object` (see plan.py).
            now: the step's schedule values.
        """

    def before_step(self, micro_batches: list[dict[str, Tensor]], now: Now) -> list[dict[str, Tensor]]:
        """What the step's micro-batches must know of each other, found out once a step, before the first forward pass.

        Returns:
            The micro-batches, with what was found as further entries (samples first). Other processes' parts are
            reached through `parallel`.
        """
        return micro_batches

    def after_step(self, now: Now) -> None:
        """Update what follows the student after an optimiser step: by default the teacher's EMA (by name)."""
        ema_update(self.teacher, self.student, now.momentum)

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        """Student parameters whose gradients are dropped at this step (DINO: the last layer in the first epoch)."""
        return iter(())

    def lr_scale(self, name: str) -> float:
        """Factor on the learning rate of a student parameter.

        Args:
            name: below `student`, as `backbone.blocks.3.attn.qkv.weight`.
        """
        return 1.0

    def end_lr_scale(self, name: str) -> float:
        """Factor on the value at which its learning rate ends, `trainer.min_lr`; by default that of the whole."""
        return self.lr_scale(name)

    def rest_epochs(self, name: str) -> int:
        """Epochs at the start in which its learning rate is 0, while the optimiser gathers its moments (DINOv2).

        DINO instead drops the gradients, and with them the moments: `frozen_parameters`.
        """
        return 0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay reaches a student parameter: matrices (class token and position table included)."""
        return parameter.ndim > 1 and not name.endswith(".bias")

    def clip_group(self, name: str) -> str:
        """Under `trainer.clip: module`, the group whose gradients are clipped together: the first part of the name."""
        return name.partition(".")[0]

    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """Optional pictures of what the method sees: name -> list of uint8 RGB arrays (several make a GIF)."""
        return {}

    @property
    def encoder(self) -> nn.Module:
        """The network to export: the teacher's backbone, a plain timm VisionTransformer."""
        return self.teacher["backbone"]

    def extra_files(self, folder: Path) -> list[Path]:
        """Write what belongs beside the exported encoder into the model folder (ODIS: its object token)."""
        return []


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- m * teacher + (1 - m) * student, over the parameters both have by name; buffers stay."""
    source = dict(student.named_parameters())
    pairs = [(p, source[name]) for name, p in teacher.named_parameters() if name in source]
    torch._foreach_lerp_([t for t, _ in pairs], [s for _, s in pairs], 1.0 - momentum)


METHODS: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its name."""
    METHODS[method.name] = method
    return method
