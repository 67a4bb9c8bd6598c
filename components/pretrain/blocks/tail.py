"""A ViT of which the last blocks learn: the others are passed once, without gradient, for whoever shares them.

`trainable` is the number of those last blocks, or "all" for the whole network, embedding and final norm included.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from components.pretrain.blocks.masked_vit import masked_embeddings

Trainable = int | Literal["all"]


def freeze_trunk(backbone: Any, trainable: Trainable) -> None:
    """Let only the last blocks learn; embedding, class token, positions and the final norm stay what they are."""
    if trainable != "all":
        backbone.requires_grad_(False)
        backbone.blocks[-trainable:].requires_grad_(True)


@torch.no_grad()
def trunk(backbone: Any, images: Tensor, trainable: Trainable) -> Tensor:
    """What the learning part receives of images (N, 3, H, W): tokens (N, n + P, D), or the images if all learns."""
    if trainable == "all":
        return images
    x = masked_embeddings(backbone, images)
    for block in backbone.blocks[:-trainable]:
        x = block(x)
    return x


def tail(backbone: Any, x: Tensor, trainable: Trainable) -> tuple[Tensor, Tensor]:
    """The rest of the network on what `trunk` gave.

    Returns:
        Patch tokens (N, P, D) after the final norm, and all tokens (N, n + P, D) as the last block receives them.
    """
    if trainable == "all":
        x = masked_embeddings(backbone, x)
    before = x
    for block in backbone.blocks if trainable == "all" else backbone.blocks[-trainable:]:
        before, x = x, block(x)
    return backbone.norm(x)[:, backbone.num_prefix_tokens :], before
