"""Next-frame predictor: from the tokens of one frame to the patch tokens of a later one (arXiv:2507.19272).

The text gives two attention blocks and an MLP; width, heads and positions are our choice, following the encoder.
"""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from components.common.vit import resize_positions, start

Tokens = Literal["patch", "cls+patch"]


class TokenPredictor(nn.Module):
    """Class token (B, D) and patch tokens (B, h*w, D) -> predicted patch tokens (B, h*w, D).

    Args:
        dim: width D.
        grid: patches along the side of the view that training uses; the time step between the frames is fixed, so
            the predictor takes no time.
        heads: attention heads.
        depth: transformer blocks before the MLP.
        mlp_ratio: hidden width of every MLP over D.
        tokens: whether the class token takes part; it is dropped from the output.
    """

    def __init__(self, dim: int, grid: int, *, heads: int, depth: int, mlp_ratio: float, tokens: Tokens) -> None:
        super().__init__()
        self.n_prefix = int(tokens == "cls+patch")
        self.pos_embed = nn.Parameter(torch.zeros(1, self.n_prefix + grid * grid, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, qkv_bias=True) for _ in range(depth))
        self.norm = LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        with torch.no_grad():
            start(self)
            self.pos_embed.zero_()  # tokens carry the encoder's positions already

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        x = torch.cat([cls[:, None], patches], dim=1) if self.n_prefix else patches
        x = x + self._positions(patches.shape[1])
        for block in self.blocks:
            x = block(x)
        return self.mlp(self.norm(x))[:, self.n_prefix :]

    def _positions(self, n_patches: int) -> Tensor:
        if n_patches + self.n_prefix == self.pos_embed.shape[1]:
            return self.pos_embed
        side = round(n_patches**0.5)
        return resize_positions(self.pos_embed, (side, side), n_prefix=self.n_prefix)


class Identity(nn.Module):
    """The ablation: nothing moves, so the best guess for a cell is what it shows now."""

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        return patches
