"""A plain timm ViT on images of which some patches are hidden (masked image modelling: BEiT, arXiv:2106.08254; iBOT).

The mask token stands in for a patch's embedding before class token, registers and positions are added, so the network
knows where the hidden patch lies and nothing of what it shows. The token belongs to the method, not to the encoder:
what is exported stays a plain ViT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaskToken(nn.Module):
    """The vector (1, D) that stands in for a hidden patch; it starts at zero, and is decayed as other tokens are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1, dim))


def masked_embeddings(
    backbone: Any, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> Tensor:
    """What the first block receives: (N, prefix + P, D), class token and registers first.

    Args:
        backbone: timm VisionTransformer.
        images: (N, 3, H, W), normalised.
        mask: bool (N, rows, columns), True where a patch is hidden; None hides none.
        mask_token: (1, D) or (D,), needed with a mask.
    """
    x = backbone.patch_embed(images)  # (N, rows, columns, D), or (N, P, D) without dynamic_img_size
    if mask is not None:
        if mask_token is None:
            raise ValueError("a mask needs a mask token")
        x = torch.where(mask.reshape(*x.shape[:-1], 1), mask_token.to(x.dtype), x)
    return backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(x)))


def masked_tokens(
    backbone: Any, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Class tokens (..., D) and patch tokens (..., P, D) after the final norm, of images (..., 3, H, W).

    With nothing masked these are the tokens of `backbone.forward_features`. Registers are dropped.

    Args:
        mask: bool (..., rows, columns), True where a patch is hidden; None hides none.
    """
    lead = images.shape[:-3]
    flat_mask = None if mask is None else mask.flatten(0, -3)
    x = masked_embeddings(backbone, images.flatten(0, -4), flat_mask, mask_token)
    found = backbone.norm(backbone.blocks(x)).unflatten(0, lead)
    return found[..., 0, :], found[..., backbone.num_prefix_tokens :, :]
