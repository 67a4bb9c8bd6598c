"""Training by iterations with AdamW, warm-up, a polynomial schedule and rates that fall with a layer's depth.

The loop of the ADE20K protocols (mmsegmentation 0.12 with the optimiser of BEiT, arXiv:2106.08254). A checkpoint holds
weights, moments and losses; every draw is seeded by the iteration's number, so that a run goes on as if never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.outputs import atomic_file
from components.evaluate.seeds import torch_seeded
from components.evaluate.task import Job

Batch = TypeVar("Batch")
Group = dict[str, Any]
CHECK_EVERY = 50  # iterations between two looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Schedule:
    """`rate` by iteration: linear warm-up times a polynomial that ends at `min_lr`."""

    iterations: int
    lr: float
    warmup_iterations: int
    warmup_ratio: float
    power: float
    min_lr: float

    def rate(self, step: int, lr: float | None = None) -> float:
        """Learning rate of iteration `step`, counted from 0, for the peak `lr` (default: the schedule's own).

        (lr - min) (1 - t/T)^p + min, and while t < W times 1 - (1 - t/W) (1 - ratio).
        """
        peak = self.lr if lr is None else lr
        rate = (peak - self.min_lr) * (1 - step / self.iterations) ** self.power + self.min_lr
        if step < self.warmup_iterations:
            rate *= 1 - (1 - step / self.warmup_iterations) * (1 - self.warmup_ratio)
        return rate


@dataclass(frozen=True)
class Run:
    """How `train` works: its schedule, AdamW's betas, the seed of its draws, and where and how often it saves."""

    schedule: Schedule
    betas: tuple[float, float]
    seed: int
    checkpoint: Path
    checkpoint_every_s: float


def layer_of(name: str, depth: int) -> int:
    """0 for patches, class and register tokens and positions; i + 1 for block i; depth + 1 for all else.

    `name` is a parameter's of the whole network, its ViT below `backbone.`.
    """
    inner = name.removeprefix("backbone.")
    if inner == name:
        return depth + 1
    if inner.startswith(("cls_token", "reg_token", "pos_embed", "patch_embed")):
        return 0
    return int(inner.split(".")[1]) + 1 if inner.startswith("blocks.") else depth + 1


def layer_groups(model: nn.Module, depth: int, decay: float, weight_decay: float, decay_positions: bool) -> list[Group]:
    """One group per (layer, decayed or not): rates times decay^(depth + 1 - layer), no weight decay for vectors.

    `decay_positions`: tokens and positions are decayed, as the released code does by an oversight in its names.
    """
    groups: dict[tuple[int, bool], Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        token = name.removeprefix("backbone.") in ("cls_token", "reg_token", "pos_embed")
        decays = decay_positions if token else parameter.ndim > 1 and not name.endswith(".bias")
        layer = layer_of(name, depth)
        empty = {"params": [], "scale": decay ** (depth + 1 - layer), "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((layer, decays), empty)["params"].append(parameter)
    return list(groups.values())


def train(
    model: nn.Module,
    groups: list[Group],
    batches: Callable[[int], Iterator[Batch]],
    loss_of: Callable[[Batch], Tensor],
    how: Run,
    job: Job,
) -> list[float]:
    """Train `model` in place, from its checkpoint where there is one.

    Args:
        model: parameters and buffers are saved; it is left in eval mode.
        groups: AdamW's groups; `scale` multiplies the schedule's rate, `lr` in one replaces its peak.
        batches: first iteration -> the batches from it on.
        loss_of: loss of a batch; it may draw from torch's generator.

    Returns:
        the loss of every iteration.

    Raises:
        StageError: the loss is not finite.
    """
    peaks = [group.pop("lr", how.schedule.lr) for group in groups]
    optimiser = torch.optim.AdamW(groups, lr=how.schedule.lr, betas=how.betas)
    total = how.schedule.iterations
    done, losses = restore(how.checkpoint, model, optimiser, total)
    model.train()
    saved, stream = time.monotonic(), batches(done)
    with job.progress(total - done, "steps") as progress, torch.backends.cudnn.flags(deterministic=True):
        for step in range(done, total):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = how.schedule.rate(step, peak) * group["scale"]
            losses[step] = one_step(optimiser, lambda: loss_of(next(stream)), job.device, how.seed, step)
            progress.update(1, **checked(losses, step) if (step + 1) % CHECK_EVERY == 0 or step + 1 == total else {})
            if time.monotonic() - saved >= how.checkpoint_every_s or step + 1 == total:
                save(how.checkpoint, model, optimiser, step + 1, losses)
                saved = time.monotonic()
    model.eval()
    return losses.tolist()


def one_step(
    optimiser: torch.optim.Optimizer, loss_of: Callable[[], Tensor], device: str, seed: int, step: int
) -> Tensor:
    """One update, its draws seeded by (seed, step); returns the loss."""
    with torch_seeded(device, seed, step):
        loss = loss_of()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def checked(losses: Tensor, step: int) -> dict[str, float]:
    """The last loss, for the progress line; StageError if it is not finite."""
    loss = float(losses[step])
    if not torch.isfinite(losses[: step + 1]).all():
        raise StageError(f"the loss is no number any more by iteration {step + 1}", do="lower `lr`")
    return {"loss": loss}


def save(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, losses: Tensor) -> None:
    """Weights, moments, losses and the number of iterations done, as one safetensors file."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{kind}.{name}": state[kind] for kind in ("exp_avg", "exp_avg_sq") if kind in state}
    tensors |= {"losses": losses, "step": torch.tensor(step)}
    with atomic_file(file) as partial:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial)


def restore(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, total: int) -> tuple[int, Tensor]:
    """Fill both from a checkpoint; (iterations done, losses (total,)), zeros where there is none."""
    from safetensors.torch import load_file

    device = next(model.parameters()).device
    if not file.exists():
        return 0, torch.zeros(total, device=device)
    tensors = load_file(file, device=str(device))
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    step = int(tensors["step"])
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" in tensors:
            moments = {kind: tensors[f"{kind}.{name}"] for kind in ("exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step, tensors["losses"]
