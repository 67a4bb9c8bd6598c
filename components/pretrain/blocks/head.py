"""DINO's projection head (arXiv:2104.14294, section 3.2 and appendix C): an MLP, then unit-length prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.vit import start


class Prototypes(nn.Module):
    """Linear layer without bias under weight normalisation: row i of the weight is `gain_i * v_i / |v_i|`.

    The gain starts at 1. Frozen there, logits are cosines in [-1, 1] (steadier); trained, they may grow (better for
    ViT-S in the paper).
    """

    def __init__(self, in_dim: int, out_dim: int, train_gain: bool) -> None:
        super().__init__()
        self.direction = nn.Linear(in_dim, out_dim, bias=False).weight  # the framework's start; only its angle counts
        self.gain = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_gain)

    def rows(self) -> Tensor:
        """The prototypes (out_dim, in_dim)."""
        return torch._weight_norm(self.direction, self.gain)  # the kernel of nn.utils.weight_norm: two passes

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rows())


class ProjectionHead(nn.Module):
    """(..., dim) -> (..., out_dim) logits over prototypes.

    Three linear layers with GELU between them, L2 normalisation of the bottleneck, and the prototypes
    (`last_layer`, whose gradients are dropped in the first epoch).
    """

    def __init__(self, dim: int, out_dim: int, *, hidden_dim: int, bottleneck_dim: int, train_gain: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        start(self.mlp)
        self.last_layer = Prototypes(bottleneck_dim, out_dim, train_gain)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Unit vectors (..., bottleneck_dim), whose product with the prototypes are the logits."""
        return F.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(self.bottleneck(x))
