"""T-CoRe's patch matching module: patches of the current frame look for their like in another frame of the clip.

Released code of arXiv:2503.15096 (base_model/models/auxiliary_decoder.py); the paper calls it the auxiliary decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchMatching(nn.Module):
    """Current patches x (B, N, D) and another frame's patches a (B, M, D) -> reconstructed patches (B, N, D).

        u = LN(gain * CrossAttention(q = x, k = v = a) + x)
        v = LN(SelfAttention(u) + u)
        y = LN(W v + b + v)

    No MLP and no activation: what it may add to a masked patch is what it finds elsewhere. 1,332,864 weights at
    D = 384. Layers start as the framework starts them, which is what the released code does.

    Args:
        dim: width D of the encoder.
        heads: attention heads of both attentions (16 for every width, so of 24 dimensions for ViT-S).
        gain: weight of what the other frame says against the patch's own token (`attn_mul`).
    """

    def __init__(self, dim: int, *, heads: int = 16, gain: float = 4.0) -> None:
        super().__init__()
        self.gain = gain
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.itself = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear = nn.Linear(dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        found, _ = self.cross(x, other, other, need_weights=False)  # without weights the fused kernel runs
        u = self.norm1(self.gain * found + x)
        mixed, _ = self.itself(u, u, u, need_weights=False)
        v = self.norm2(mixed + u)
        return self.norm3(self.linear(v) + v)

    @torch.no_grad()
    def attention(self, x: Tensor, other: Tensor) -> Tensor:
        """Where each patch of x looks in the other frame: (B, N, M), the mean over heads; rows sum to 1."""
        _, weights = self.cross(x, other, other, need_weights=True)
        return weights
