"""What the DINO family shares: the student-teacher cross-entropy, its temperatures, head, teacher and parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.common.config import Params
from components.common.errors import StageError
from components.pretrain.blocks.head import ProjectionHead
from components.pretrain.blocks.numerics import full, no_autocast


class DistillationArgs(Params):
    """Head and loss of DINO; defaults are the published ViT-S/16 values."""

    out_dim: int = Field(65536, gt=1, description="prototypes K")
    hidden_dim: int = Field(2048, gt=0, description="width of the head's MLP")
    bottleneck_dim: int = Field(256, gt=0, description="width of the normalised vector that meets the prototypes")
    train_gain: bool = Field(True, description="train the prototypes' gain (norm_last_layer false in DINO's code)")
    freeze_last_layer_epochs: int = Field(1, ge=0, description="epochs in which the prototypes do not move")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the student's last block")
    student_temp: float = Field(0.1, gt=0)
    teacher_temp: float = Field(0.04, gt=0, description="after the warm-up")
    warmup_teacher_temp: float = Field(0.04, gt=0, description="in the first epoch of the warm-up")
    warmup_teacher_temp_epochs: int = Field(0, ge=0)
    centre_momentum: float = Field(0.9, ge=0, le=1)

    def head(self, dim: int, out_dim: int | None = None) -> ProjectionHead:
        """A projection head on features of width `dim`."""
        return ProjectionHead(
            dim,
            out_dim or self.out_dim,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            train_gain=self.train_gain,
        )


def check_warmup(name: str, warmup_epochs: int, epochs: float) -> None:
    """Refuse a warm-up that the run would never finish (an untrained encoder, 0 epochs, has none to finish)."""
    if 0 < epochs < warmup_epochs:
        what = f"'{name}' = {warmup_epochs} is longer than the run of {epochs:g} epochs"
        raise StageError(what, where="pretrain.args", do="shorten the warm-up or train longer")


def teacher_temperature(epoch: int, first: float, last: float, warmup_epochs: int) -> float:
    """Linear from `first` in epoch 0 to `last` in epoch `warmup_epochs - 1`, constant from there on."""
    if epoch >= warmup_epochs:
        return last
    return first + (last - first) * epoch / max(warmup_epochs - 1, 1)


def make_teacher(student: nn.ModuleDict, backbone: nn.Module, heads: tuple[str, ...] = ("head",)) -> nn.ModuleDict:
    """The student's twin: equal weights, no gradients.

    Args:
        student: holds `backbone` and the heads.
        backbone: a fresh backbone without stochastic depth, filled here.
        heads: names of the heads that the teacher has too.
    """
    backbone.load_state_dict(student["backbone"].state_dict())
    teacher = nn.ModuleDict({"backbone": backbone, **{name: copy.deepcopy(student[name]) for name in heads}})
    return teacher.requires_grad_(False)


def teacher_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((z - c) / tau) over the last axis, without gradient (arXiv:2104.14294, eq. 1 with 4)."""
    with no_autocast(logits):
        return ((full(logits.detach()) - centre) / temperature).softmax(dim=-1)


def cross_entropy(probs: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean over all rows of H(p, softmax(z / tau)) = -sum p log softmax(z / tau); (..., K) both."""
    with no_autocast(logits):
        return F.cross_entropy(full(logits).flatten(0, -2) / temperature, full(probs).flatten(0, -2))


def view_pair_loss(probs: Tensor, logits: Tensor, temperature: float, *, skip_same: bool = True) -> Tensor:
    """DINO's loss (arXiv:2104.14294, eq. 3): mean of H over pairs of a teacher view and another student view.

    Args:
        probs: (T, B, K) teacher probabilities of views 0..T-1.
        logits: (S, B, K) student logits; views 0..T-1 are the same views, the rest local ones.
        temperature: the student's.
        skip_same: leave out pairs of one and the same view.
    """
    with no_autocast(logits):
        log_probs = (full(logits) / temperature).log_softmax(dim=-1)
        pairs = -torch.einsum("tbk,sbk->ts", full(probs), log_probs) / probs.shape[1]
    if skip_same:
        pairs = pairs[~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)]
    return pairs.mean()


def last_layers(student: nn.ModuleDict, frozen: bool) -> Iterator[nn.Parameter]:
    """The prototypes of every head, while they are `frozen`: their gradients are dropped."""
    for name, parameter in student.named_parameters():
        if frozen and "last_layer" in name:
            yield parameter


def tokens(backbone: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class tokens (..., D) and patch tokens (..., P, D) after the final norm, of images (..., 3, S, S)."""
    lead = images.shape[:-3]
    found = backbone.forward_features(images.flatten(0, -4)).unflatten(0, lead)
    return found[..., 0, :], found[..., backbone.num_prefix_tokens :, :]


def view_first(group: Tensor, frame: int = 0) -> Tensor:
    """One frame of a crop group (B, V, T, 3, S, S) as (V, B, 3, S, S)."""
    return group[:, :, frame].transpose(0, 1)
