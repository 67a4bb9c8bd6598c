"""Heads on frozen patch grids, trained by SGD epoch by epoch: a 1x1 convolution, or a small network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.outputs import atomic_file
from components.evaluate.resampling import upsample
from components.evaluate.seeds import torch_seeded

VOID = 255

# (epoch, picture numbers of each batch) -> features (B, h, w, D) and labels (B, S, S) of each batch
Batches = Callable[[int, list[NDArray[np.int64]]], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Schedule:
    """SGD, the rate multiplied by `drop_factor` every `drop_epoch` epochs."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    drop_epoch: int
    drop_factor: float
    shuffle: bool
    drop_last: bool = False

    def parts(self, n_images: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """Picture numbers of each batch of an epoch; a single batch is kept even if it is not full."""
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(n_images) if self.shuffle else np.arange(n_images)
        parts = [order[start : start + self.batch_size] for start in range(0, n_images, self.batch_size)]
        return parts[:-1] if self.drop_last and len(parts) > 1 and len(parts[-1]) < self.batch_size else parts


@dataclass(frozen=True)
class Work:
    """Where a training saves its state after every epoch (None: nowhere), its device, and the head's grid.

    `head_px`: side that features are upsampled to before the head; None: the head works on the patches.
    """

    checkpoint: Path | None = None
    device: str = "cpu"
    head_px: int | None = None


def make_head(dim: int, n_classes: int, generator: torch.Generator) -> nn.Conv2d:
    """A 1x1 convolution with PyTorch's usual start, drawn from `generator`."""
    head = nn.utils.skip_init(nn.Conv2d, dim, n_classes, kernel_size=1)
    bound = dim**-0.5  # uniform Kaiming start with a = sqrt(5), for weight and bias alike
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return head


def class_scores(head: nn.Module, features: Tensor, size: tuple[int, int], head_px: int | None = None) -> Tensor:
    """Class scores (B, C, *size) of patch grids (B, h, w, D).

    Linear heads: the protocol upsamples features and then applies the head. Both are linear and the interpolation
    weights sum to 1, so the order does not matter, and C channels cost a fraction of D (21 against 384). Other heads
    need the published order, which `head_px` asks for.
    """
    maps = features.permute(0, 3, 1, 2)
    return upsample(head(maps if head_px is None else upsample(maps, (head_px, head_px))), size)


def fit(
    head: nn.Module, n_images: int, batches: Batches, how: Schedule, seed: int, work: Work | None = None
) -> Iterator[float]:
    """Train the head; yields the mean loss of each epoch that was not done before.

    Args:
        head: updated in place, left in eval mode.
        n_images: pictures in the training split.
        batches: gives features and labels, 255 is void.
        how: the schedule.
        seed: of the order of pictures, where it is shuffled, and of dropout.
        work: where to save, and how the head is applied.

    Raises:
        StageError: the loss is not finite.
    """
    work = work or Work()
    weights = list(head.parameters())
    velocity = [torch.zeros_like(w) for w in weights]
    head.train()
    for epoch in range(restore(work.checkpoint, weights, velocity), how.epochs):
        lr = how.lr * how.drop_factor ** (epoch // how.drop_epoch)
        losses = []
        for number, (features, labels) in enumerate(batches(epoch, how.parts(n_images, seed, epoch))):
            with torch_seeded(work.device, seed, epoch, number):
                scores = class_scores(head, features, (labels.shape[1], labels.shape[2]), work.head_px)
            loss = pixel_loss(scores, labels)
            sgd_step(weights, velocity, torch.autograd.grad(loss, weights), lr, how)
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise StageError(f"the loss is no number any more in epoch {epoch + 1}", do="lower `lr`")
        save(work.checkpoint, weights, velocity, epoch + 1)
        yield mean
    head.eval()


@torch.no_grad()
def sgd_step(
    weights: list[nn.Parameter], velocity: list[Tensor], gradients: tuple[Tensor, ...], lr: float, how: Schedule
) -> None:
    """v <- momentum v + g + decay w;  w <- w - lr v.

    Written out, since making a torch.optim optimiser loads PyTorch's compiler, which takes longer than this training.
    """
    for w, v, g in zip(weights, velocity, gradients, strict=True):
        v.mul_(how.momentum).add_(g).add_(w, alpha=how.weight_decay)
        w.sub_(v, alpha=lr)


def pixel_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of (B, C, S, S) over the pixels that are not void; 0 where all are."""
    kept = labels != VOID
    total = F.cross_entropy(scores.permute(0, 2, 3, 1)[kept], labels[kept], reduction="sum")
    return total / kept.sum().clamp_min(1)


def save(file: Path | None, weights: list[nn.Parameter], velocity: list[Tensor], epochs: int) -> None:
    """Weights, velocities and the number of epochs done, whole or not at all."""
    from safetensors.torch import save_file

    if file is None:
        return
    tensors = {f"weight.{i}": w.detach() for i, w in enumerate(weights)}
    tensors |= {f"velocity.{i}": v for i, v in enumerate(velocity)} | {"epochs": torch.tensor(epochs)}
    with atomic_file(file) as partial:
        save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, partial)


@torch.no_grad()
def restore(file: Path | None, weights: list[nn.Parameter], velocity: list[Tensor]) -> int:
    """Fill both from a file that `save` left; the epochs done, 0 where there is none."""
    from safetensors.torch import load_file

    if file is None or not file.exists():
        return 0
    tensors = load_file(file)
    for i, (w, v) in enumerate(zip(weights, velocity, strict=True)):
        w.copy_(tensors[f"weight.{i}"])
        v.copy_(tensors[f"velocity.{i}"])
    return int(tensors["epochs"])
