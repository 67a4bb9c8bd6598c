"""A linear probe on frozen patch grids: a 1x1 convolution, trained by SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from components.evaluate.resampling import upsample

VOID = 255

Batch = Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]  # picture numbers -> features (B,h,w,D), labels (B,S,S)


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


def make_head(dim: int, n_classes: int, generator: torch.Generator) -> nn.Conv2d:
    """A 1x1 convolution with PyTorch's usual start, drawn from `generator`."""
    head = nn.utils.skip_init(nn.Conv2d, dim, n_classes, kernel_size=1)
    bound = dim**-0.5  # uniform Kaiming start with a = sqrt(5), for weight and bias alike
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return head


def logits(head: nn.Module, features: Tensor, size: tuple[int, int]) -> Tensor:
    """Class scores (B, C, *size) of patch grids (B, h, w, D).

    The protocol upsamples features and then applies the head. Both are linear and the interpolation weights sum to
    1, so the order does not matter, and C channels cost a fraction of D (21 against 384).
    """
    return upsample(head(features.permute(0, 3, 1, 2)), size)


def fit(head: nn.Module, n_images: int, batch: Batch, how: Schedule, seed: int) -> Iterator[float]:
    """Train the head; yields the mean loss of each epoch.

    Args:
        head: updated in place.
        n_images: pictures in the training split.
        batch: gives the features and labels of some pictures, 255 is void.
        how: the schedule.
        seed: of the order of pictures, where it is shuffled.
    """
    weights = list(head.parameters())
    velocity = [torch.zeros_like(w) for w in weights]
    for epoch in range(how.epochs):
        lr = how.lr * how.drop_factor ** (epoch // how.drop_epoch)
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(n_images) if how.shuffle else np.arange(n_images)
        losses = []
        for start in range(0, n_images, how.batch_size):
            features, labels = batch(order[start : start + how.batch_size])
            loss = pixel_loss(logits(head, features, (labels.shape[1], labels.shape[2])), labels)
            sgd_step(weights, velocity, torch.autograd.grad(loss, weights), lr, how)
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())


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
