"""What a run costs, and how long it may be: images, operations, seconds, counted alike for every method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components.pretrain.config import Budget
from components.pretrain.method import Method, Now
from components.pretrain.plan import BlockMasks, Masks, ViewPlan

EXAMPLES = 2  # samples that are counted: a loss over neighbours in the batch (KoLeo) has none with one


@dataclass(frozen=True)
class Cost:
    """What one sample costs.

    Attributes:
        images: source frames that views are cut from.
        flops: multiply-adds times two of its forward and backward pass (matrix products and attention).
    """

    images: int = 1
    flops: int = 0


def cost_of(method: Method, plan: ViewPlan) -> Cost:
    """Count one sample of a method at its start; the method is not to be trained after that.

    The batch is a made-up one of mean masks, so the count is the same whatever is drawn, and on every process. It is
    counted in evaluation mode: the same operations, and terms over groups of samples (KoLeo) take so few for one.
    """
    images = len({frame for crop in plan.crops for frame in crop.frames})
    now = Now(step=0, epoch=0, epochs=1.0, momentum=1.0, generator=torch.Generator().manual_seed(0))
    weight = next(method.parameters())
    batch = {name: views.to(weight.device) for name, views in example_batch(plan).items()}
    return Cost(images, flops_per_sample(method.eval(), batch, now))


def flops_per_sample(method: Method, batch: dict[str, Tensor], now: Now) -> int:
    """Multiply-adds times two of the forward and backward pass, divided by the samples of the batch."""
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        method(batch, now).loss.backward()
    return round(counter.get_total_flops() / len(next(iter(batch.values()))))


def example_batch(plan: ViewPlan) -> dict[str, Tensor]:
    """A batch as the loader would deliver it, the same at every call: noise, whole frames, masks of mean size."""
    generator, batch = torch.Generator().manual_seed(0), {}
    for crop in plan.crops:
        shape, side = (EXAMPLES, len(crop.photometric), len(crop.frames)), crop.size_px
        batch[crop.name] = torch.randn(*shape, 3, side, side, generator=generator)
        batch[f"{crop.name}_box"] = torch.tensor([0.0, 0.0, side, side, 0.0]).expand(*shape, 5).contiguous()
        if crop.mask is not None:
            batch[f"{crop.name}_mask"] = _masks(crop.mask, shape, plan.grid(crop))
        if plan.objects is not None:
            batch[f"{crop.name}_object"] = _first(0.25, plan.grid(crop)).expand(*shape, -1, -1).contiguous()
    return batch


def _masks(masks: Masks, shape: tuple[int, int, int], grid: int) -> Tensor:
    """Masks of mean size for crops (B, V, T): all of them alike, or as large a share of them as is masked at all."""
    if isinstance(masks, BlockMasks):
        return _first(sum(masks.ratios) / len(masks.ratios), grid).expand(*shape, -1, -1).contiguous()
    chosen = torch.arange(math.prod(shape)) < round(masks.share * math.prod(shape))
    return chosen.view(*shape, 1, 1) & _first(sum(masks.ratio) / 2, grid)


def _first(share: float, grid: int) -> Tensor:
    """A grid in which the first `share` of the patches, row by row, is True."""
    return (torch.arange(grid * grid) < share * grid * grid).view(grid, grid)


def steps_of(budget: Budget, batch_size: int, cost: Cost, step_s: Callable[[], float]) -> int:
    """Optimiser steps that come nearest to a budget, one at least.

    Args:
        budget: how much of what.
        batch_size: samples in one step, over all processes.
        cost: of one sample.
        step_s: measures the seconds of one step; asked only where the budget is in seconds.
    """
    per_step: dict[str, Callable[[], float]] = {
        "steps": lambda: 1.0,
        "samples": lambda: float(batch_size),
        "images": lambda: float(batch_size * cost.images),
        "flops": lambda: float(batch_size * cost.flops),
        "seconds": step_s,
    }
    return max(math.floor(budget.amount / per_step[budget.unit]() + 0.5), 1)
