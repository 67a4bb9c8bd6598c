"""T-CoRe's patch matching module: patches of the current frame look for their like in another frame of the clip.

Released code of arXiv:2503.15096 (base_model/models/auxiliary_decoder.py); the paper calls it the auxiliary decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.vit import IMAGENET_MEAN, IMAGENET_STD

SHOWN = 6  # masked patches in a picture


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

    Raises:
        StageError: the heads do not divide the width.
    """

    def __init__(self, dim: int, *, heads: int = 16, gain: float = 4.0) -> None:
        super().__init__()
        if dim % heads:
            what = f"{heads} heads of patch matching do not divide the encoder's width {dim}"
            raise StageError(what, where="pretrain.args", do="change matching_heads")
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


def draw_matches(current: Tensor, others: Tensor, hidden: Tensor, attention: Tensor) -> list[Any]:
    """One picture for each of some masked patches: the current frame as the student sees it, the patch marked, then
    the other frames, each as bright as the patch looks at it.

    Args:
        current: (3, S, S), normalised.
        others: (F, 3, S, S).
        hidden: bool (rows, columns), the masked patches.
        attention: (F, P, P), where each patch looks in each of the frames.

    Returns:
        uint8 RGB arrays (S, (1 + F) S, 3), none where nothing is masked.
    """
    mean, std = (torch.tensor(v, device=current.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    cell = current.shape[-1] // hidden.shape[-1]

    def pixels(grid: Tensor) -> Tensor:
        return grid.repeat_interleave(cell, dim=-2).repeat_interleave(cell, dim=-1)

    panels = (torch.cat([current[None], others]).float() * std + mean).clamp(0, 1)
    masked = hidden.flatten().nonzero().flatten()
    pictures = []
    for patch in masked[torch.linspace(0, len(masked) - 1, min(SHOWN, len(masked))).long().to(masked.device)]:
        looks = attention[:, patch].float().unflatten(-1, hidden.shape)  # (F, rows, columns)
        looks = looks / looks.amax(dim=(-2, -1), keepdim=True)
        marked = torch.arange(hidden.numel(), device=hidden.device).view_as(hidden) == patch
        seen = panels[0] * ~pixels(hidden)
        seen[0] = torch.where(pixels(marked), 1.0, seen[0])  # red
        row = torch.cat([seen, *(panels[1:] * (0.15 + 0.85 * pixels(looks)[:, None]))], dim=-1)
        pictures.append((row * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    return pictures
