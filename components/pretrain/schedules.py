"""Values that change at every step, as in DINO (arXiv:2104.14294, sec. 3.1): pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.common.errors import StageError
from components.pretrain.config import TrainerParams

# Growth of the peak learning rate with the batch: linear (arXiv:1706.02677), or by its root (DINOv2, T-CoRe).
LR_RULES: dict[str, float] = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}


def cosine(start: float, end: float, step: int, total: int) -> float:
    """`start` at step 0, down a half cosine towards `end`, which step `total` would reach."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / total))


def warmup_cosine(peak: float, end: float, step: int, total: int, warmup: int) -> float:
    """Linear from 0 at step 0 to `peak` at the last warm-up step, then a cosine that starts at `peak` again."""
    if step < warmup:
        return peak * step / max(warmup - 1, 1)
    return cosine(peak, end, step - warmup, total - warmup)


@dataclass(frozen=True)
class Values:
    """What holds during one step.

    Attributes:
        lr_end: what of `lr` comes from its end value `min_lr`: 0 in the warm-up, all of it at the end.
        epoch: whole passes over the draw done before.
    """

    lr: float
    weight_decay: float
    momentum: float
    lr_end: float = 0.0
    epoch: int = 0


@dataclass(frozen=True)
class Schedule:
    """Length of a run and the values at each of its steps.

    Attributes:
        params: the trainer's parameters.
        steps_per_epoch: optimiser steps in one pass over the draw.
        total: optimiser steps of the whole run.
        warmup: those of them that warm up.
    """

    params: TrainerParams
    steps_per_epoch: int
    total: int
    warmup: int

    @classmethod
    def plan(cls, params: TrainerParams, steps_per_epoch: int, budget_steps: int | None = None) -> Schedule:
        """Turn epochs into steps; StageError when the warm-up would not end before the run does.

        Args:
            params: the trainer's parameters.
            steps_per_epoch: optimiser steps in one pass over the draw.
            budget_steps: what `params.budget` comes to, if there is one: then the run's length.
        """
        total = round(params.epochs * steps_per_epoch)
        if params.max_steps is not None:
            total = min(total, params.max_steps)
        if budget_steps is not None and params.trains:
            total = budget_steps
        warmup = round(params.warmup_epochs * steps_per_epoch)
        if 0 < total <= warmup:
            raise StageError(
                f"the warm-up takes {warmup} steps, the whole run {total}",
                do="lower trainer.warmup_epochs or lengthen the run (trainer.epochs, max_steps, budget)",
            )
        return cls(params, steps_per_epoch, total, warmup)

    @property
    def epochs(self) -> float:
        """Passes over the draw in the whole run, whatever sets its length."""
        return self.total / self.steps_per_epoch

    def at(self, step: int) -> Values:
        """Values of a step, 0 <= step < total."""
        p = self.params
        peak = p.lr * (p.batch_size / p.lr_batch) ** LR_RULES[p.lr_rule]
        return Values(
            lr=warmup_cosine(peak, p.min_lr, step, self.total, self.warmup),
            weight_decay=cosine(p.weight_decay, p.weight_decay_end, step, self.total),
            momentum=cosine(p.momentum_teacher, p.momentum_teacher_end, step, self.total),
            lr_end=warmup_cosine(0.0, p.min_lr, step, self.total, self.warmup),
            epoch=step // self.steps_per_epoch,
        )
