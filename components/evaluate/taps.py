"""Feature maps of a ViT's inner blocks, frozen or trained, and sizes that fit its patches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from components.common.encoder import Encoder
from components.common.errors import StageError
from components.common.vit import TimmModel, resize_positions

Taps = Literal["spread", "last"]
N_TAPS = 4


def tap_blocks(depth: int, which: Taps) -> list[int]:
    """Four blocks, counted from 0.

    `spread`: after a third, a half, two thirds and all of the depth: 3, 5, 7, 11 of 12 blocks and 7, 11, 15, 23 of 24,
    as published. `last`: the last four. A ViT of fewer blocks gives one of them more than once.
    """
    if which == "last":
        return [max(0, depth - N_TAPS + i) for i in range(N_TAPS)]
    return [max(1, round(depth * share)) - 1 for share in (1 / 3, 1 / 2, 2 / 3, 1)]


def tap_maps(model: TimmModel, images: Tensor, blocks: Sequence[int], norm: bool) -> list[Tensor]:
    """Patches (B, D, h, w) after each of `blocks`, with `norm` through the final norm, of images (B, 3, H, W)."""
    wanted = sorted(set(blocks))
    found = model.forward_intermediates(images, indices=wanted, norm=norm, intermediates_only=True)
    by_block = dict(zip(wanted, found, strict=True))
    return [by_block[block] for block in blocks]


def backbone_for(encoder: Encoder, size_px: int, pos_quirk: bool) -> TimmModel:
    """A copy of the encoder's ViT whose position table is resized, once, to pictures of `size_px`.

    So does the loader of these protocols; a table left at its pretraining size is the classic wrong result.
    """
    if not hasattr(encoder.model, "blocks") or getattr(encoder.model, "pos_embed", None) is None:
        raise StageError("this task needs a plain ViT with a position table", where=encoder.origin)
    model = copy.deepcopy(encoder.model)
    table = model.pos_embed.detach() if encoder.table is None else encoder.table
    side = size_px // encoder.patch_size
    n_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    model.patch_embed.set_input_size(img_size=(size_px, size_px))
    if table.shape[1] != side * side + n_prefix:
        table = resize_positions(table, (side, side), n_prefix=n_prefix, quirk=pos_quirk)
    model.pos_embed = nn.Parameter(table.clone(), requires_grad=False)
    return model


def drop_paths(model: TimmModel, rate: float) -> None:
    """Stochastic depth of the blocks, rising linearly from 0 to `rate` at the last one."""
    from timm.layers import DropPath

    for block, share in zip(model.blocks, torch.linspace(0, rate, len(model.blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)
