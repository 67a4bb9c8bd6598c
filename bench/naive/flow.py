"""One training step as the released codes take it: the yardstick for the speed of ours.

Eager attention that forms its matrix and scales it (DINO, iBOT, DoRA and TimeT have one ViT), gradients clipped
parameter by parameter, AdamW as it comes, a teacher that follows parameter by parameter. A method's flow adds what its
own code does between images and loss.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from components.pretrain.method import Method, Now

CLIP_EPS = 1e-6


class NaiveFlow(ABC):
    """A copy of a method's networks, trained the plain way.

    Args:
        method: freshly built; gives start weights and arguments, and stays as it is.
        lr, weight_decay: constant values.
        clip_norm: of each tensor's gradient; None clips nothing.
    """

    scales_queries = False  # as DINOv2's ViT does, before the product

    def __init__(self, method: Method, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        self.source: Any = copy.deepcopy(method)
        self.args: Any = method.args
        self.student: nn.ModuleDict = self.source.student
        self.teacher: nn.ModuleDict = self.source.teacher
        self.clip_norm = clip_norm
        layers: list[Any] = [module for module in self.source.modules() if isinstance(module, Attention)]
        for layer in layers:
            layer.forward = partial(self.attention, layer)
        trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=lr,
        )

    @classmethod
    def attention(cls, layer: Any, x: Tensor, **_: Any) -> Tensor:
        """Self-attention (B, L, D) of the released vision_transformer.py, without dropout, which is 0."""
        q, k, v = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scaled = (
            (q * layer.scale) @ k.transpose(-2, -1) if cls.scales_queries else (q @ k.transpose(-2, -1)) * layer.scale
        )
        attention = scaled.softmax(dim=-1)
        return layer.proj((attention @ v).transpose(1, 2).flatten(2))

    @abstractmethod
    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        """The scalar that a step minimises; the batch is as our method gets it."""

    def step(self, batch: dict[str, Tensor], now: Now) -> float:
        """One optimiser step; returns its loss, which the released loops wait for to find NaN."""
        loss = self.loss(batch, now)
        value = loss.item()
        self.optimiser.zero_grad()
        loss.backward()
        if self.clip_norm is not None:
            for parameter in self.student.parameters():
                if parameter.grad is not None:
                    scale = self.clip_norm / (parameter.grad.norm(2) + CLIP_EPS)
                    if scale < 1:
                        parameter.grad.mul_(scale)
        self.optimiser.step()
        self.after_step(now)
        return value

    @torch.no_grad()
    def after_step(self, now: Now) -> None:
        """The teacher follows the student, parameter by parameter."""
        source = dict(self.student.named_parameters())
        for name, parameter in self.teacher.named_parameters():
            if name in source:
                parameter.mul_(now.momentum).add_((1 - now.momentum) * source[name])


def pair_losses(probs: list[Tensor], logits: list[Tensor], temperature: float, same: bool = False) -> Tensor:
    """Mean over pairs of views of cross-entropy, each pair a pass over its logits (B, K)."""
    total, n_terms = logits[0].new_zeros(()), 0
    for t, target in enumerate(probs):
        for s, student in enumerate(logits):
            if s != t or same:
                total = total + (-target * torch.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean()
                n_terms += 1
    return total / n_terms
