"""Many linear classifiers trained side by side on the same features: one pass serves every learning rate.

The heads share no weight, so the gradient of the summed loss is each one's own, and a step of all is a step of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.common.outputs import atomic_file

START_STD = 0.01  # of the weights; biases start at 0 (DINO's code)


@dataclass(frozen=True)
class Schedule:
    """SGD: peak rates (one head each), momentum, weight decay; the rate falls by a cosine to 0, epoch by epoch."""

    rates: tuple[float, ...]
    epochs: int
    momentum: float
    weight_decay: float

    def share(self, epoch: int) -> float:
        """Rate in this epoch (from 0) / peak rate."""
        return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


@dataclass
class Sweep:
    """The heads and all that a resumed training needs. H heads, D features, C classes, E epochs.

    Attributes:
        weight, bias: (D, H, C) and (H, C); `speed_*`: SGD's velocities.
        accuracy: (E, H) on the held-out pictures after each epoch, NaN where not trained yet.
        best_weight, best_bias: (D, C), (C,): the head and epoch with the highest one so far, the earliest of equals.
        epoch: epochs done.
    """

    weight: Tensor
    bias: Tensor
    speed_weight: Tensor
    speed_bias: Tensor
    accuracy: Tensor
    best_weight: Tensor
    best_bias: Tensor
    epoch: Tensor = field(default_factory=lambda: torch.tensor(0))

    @property
    def best(self) -> tuple[int, int]:
        """(epoch, head) of the highest held-out accuracy, the earliest epoch and then the first head of equals."""
        return divmod(int(self.accuracy.nan_to_num(-1).flatten().argmax()), self.accuracy.shape[1])

    @property
    def last(self) -> int:
        """The head that is best on the held-out pictures after the last epoch."""
        return int(self.accuracy[int(self.epoch) - 1].argmax())


def start(dim: int, n_classes: int, how: Schedule, seed: int, device: str) -> Sweep:
    """All heads from the same seeded normal weights, so that they differ by their rate alone."""
    one = torch.randn(dim, 1, n_classes, generator=torch.Generator().manual_seed(seed)) * START_STD
    weight = one.repeat(1, len(how.rates), 1).to(device)
    bias = torch.zeros(len(how.rates), n_classes, device=device)
    accuracy = torch.full((how.epochs, len(how.rates)), math.nan)
    best = torch.zeros(dim, n_classes, device=device), torch.zeros(n_classes, device=device)
    return Sweep(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias), accuracy, *best)


def scores(weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
    """Class scores (B, H, C) of features (B, D)."""
    return (features @ weight.flatten(1)).unflatten(1, bias.shape) + bias


def step(sweep: Sweep, features: Tensor, labels: Tensor, how: Schedule, share: float) -> Tensor:
    """One SGD step of every head at `share` of its rate; returns the losses (H,) before it.

    v <- momentum v + g + decay w;  w <- w - lr v, as torch.optim.SGD.
    """
    weights = [sweep.weight.requires_grad_(True), sweep.bias.requires_grad_(True)]
    out = scores(sweep.weight, sweep.bias, features)
    target = labels[:, None].expand(out.shape[:2])
    losses = F.cross_entropy(out.flatten(0, 1), target.flatten(), reduction="none").unflatten(0, target.shape).mean(0)
    gradients = torch.autograd.grad(losses.sum(), weights)
    rates = torch.tensor(how.rates, device=features.device)[:, None] * share
    with torch.no_grad():
        for w, v, g in zip(weights, (sweep.speed_weight, sweep.speed_bias), gradients, strict=True):
            v.mul_(how.momentum).add_(g).add_(w, alpha=how.weight_decay)
            w.sub_(rates * v)
            w.requires_grad_(False)
    return losses.detach()


@torch.no_grad()
def held_out_accuracy(sweep: Sweep, chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(H,) share of right answers over chunks of features (B, D) and labels (B,)."""
    right, n = torch.zeros(sweep.bias.shape[0]), 0
    for features, labels in chunks:
        hits = scores(sweep.weight, sweep.bias, features).argmax(-1) == labels[:, None]
        right, n = right + hits.sum(0).cpu(), n + len(labels)
    return right / n


def fit(
    sweep: Sweep,
    epoch_batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    held_out: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    how: Schedule,
    checkpoint: Path,
    told: Callable[[float, float], None],
) -> Sweep:
    """Train from the checkpoint on, if there is one; saves after every epoch.

    Args:
        epoch_batches: epoch -> its batches of features (B, D) and labels (B,).
        held_out: gives the pictures that choose, in chunks.
        told: gets the mean loss over heads and the best held-out accuracy of every epoch.
    """
    sweep = load(checkpoint, sweep)
    for epoch in range(int(sweep.epoch), how.epochs):
        share = how.share(epoch)
        losses = [step(sweep, features, labels, how, share) for features, labels in epoch_batches(epoch)]
        sweep.accuracy[epoch] = held_out_accuracy(sweep, held_out())
        sweep.epoch = torch.tensor(epoch + 1)
        if sweep.best[0] == epoch:
            head = sweep.best[1]
            sweep.best_weight, sweep.best_bias = sweep.weight[:, head].clone(), sweep.bias[head].clone()
        save(checkpoint, sweep)
        told(float(torch.stack(losses).nanmean()), float(sweep.accuracy[epoch].max()))
    return sweep


def save(file: Path, sweep: Sweep) -> None:
    """All tensors, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_file(file) as partial:
        save_file({f.name: getattr(sweep, f.name).cpu().contiguous().clone() for f in fields(Sweep)}, partial)


def load(file: Path, fresh: Sweep) -> Sweep:
    """The saved sweep on the fresh one's devices, or the fresh one where nothing is saved."""
    from safetensors.torch import load_file

    if not file.exists():
        return fresh
    saved = load_file(file)
    return Sweep(**{f.name: saved[f.name].to(getattr(fresh, f.name).device) for f in fields(Sweep)})
