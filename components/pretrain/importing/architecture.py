"""Which timm VisionTransformer a set of weights belongs to, read off their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from components.common.errors import StageError

NAMES = {192: "vit_tiny", 384: "vit_small", 768: "vit_base", 1024: "vit_large"}  # by width, for people
PLAIN, GATED = "vit_tiny_patch16_224", "vit_giant_patch14_dinov2"  # the second has SwiGLU, DINOv2's giant model
HEAD_DIM = 64  # width of a head in every published ViT of these layouts


def architecture_of(
    weights: Mapping[str, Tensor], no_embed_class: bool, heads: int | None, where: Path
) -> tuple[str, dict[str, Any]]:
    """timm name and `model_args` of a ViT with these weights (timm's names).

    Args:
        no_embed_class: the position table covers the patches alone.
        heads: attention heads, which no shape shows; None takes one for each 64 of the width.

    Raises:
        StageError: the weights are no ViT's, or the number of heads is open.
    """
    patch, dim = weights["patch_embed.proj.weight"].shape[-1], weights["cls_token"].shape[-1]
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    hidden = _first_shape(weights, "mlp.fc1.weight", where)[0]
    args: dict[str, Any] = {
        "img_size": patch * _grid(weights["pos_embed"].shape[1] - (0 if no_embed_class else 1 + registers), where),
        "patch_size": patch,
        "embed_dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        "num_heads": _heads(dim, heads, where),
    }
    optional = {
        "mlp_ratio": (hidden / dim, 4.0),
        "qkv_bias": ("blocks.0.attn.qkv.bias" in weights, True),
        "qk_norm": ("blocks.0.attn.q_norm.weight" in weights, False),
        "init_values": (1e-5 if "blocks.0.ls1.gamma" in weights else None, None),
        "reg_tokens": (registers, 0),
        "no_embed_class": (no_embed_class, False),
    }
    gated = _first_shape(weights, "mlp.fc2.weight", where)[1] != hidden  # half of fc1's rows gate the other half
    if gated:
        return GATED, args | {name: value for name, (value, _) in optional.items()}
    return _name(dim, patch), args | {name: value for name, (value, usual) in optional.items() if value != usual}


def _name(dim: int, patch: int) -> str:
    """A name that fits for people; the arguments say everything anyway."""
    known = f"{NAMES[dim]}_patch16_224" if dim in NAMES else PLAIN
    return known.replace("patch16", "patch8") if patch == 8 and dim in (384, 768) else known


def _heads(dim: int, heads: int | None, where: Path) -> int:
    if heads is None and dim % HEAD_DIM:
        what = f"a width of {dim} does not say the number of attention heads"
        raise StageError(what, where=where, do="name it with --heads")
    count = heads or dim // HEAD_DIM
    if dim % count:
        raise StageError(f"a width of {dim} cannot be shared by {count} heads", where=where, do="change --heads")
    return count


def _grid(patches: int, where: Path) -> int:
    if patches < 1 or math.isqrt(patches) ** 2 != patches:
        raise StageError(f"the position table is of no square grid, {patches} patches", where=where)
    return math.isqrt(patches)


def _first_shape(weights: Mapping[str, Tensor], name: str, where: Path) -> tuple[int, ...]:
    found = next((value for key, value in weights.items() if key.startswith("blocks.") and key.endswith(name)), None)
    if found is None:
        raise StageError(f"no block has '{name}'", where=where, do="give a vision transformer's weights")
    return tuple(found.shape)
