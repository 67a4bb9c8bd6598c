"""The encoder's network: a plain timm VisionTransformer, built, started and filled in one way everywhere.

No layer of ours is added, so a saved encoder loads in timm with no code of this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from components.common.errors import StageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TimmModel = Any  # timm carries no types that a checker could follow
INIT_STD = 0.02  # truncated normal of every linear layer and token (DINO's code; ViT, arXiv:2010.11929)


def build_model(architecture: str, model_args: Mapping[str, Any] | None = None) -> TimmModel:
    """Any timm model by name, without a classifier; raises StageError for an unknown name or argument."""
    try:
        return timm.create_model(architecture, **{"num_classes": 0, **(model_args or {})})
    except (RuntimeError, TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        what = f"timm cannot build '{architecture}', {_first_line(error)}"
        raise StageError(what, do="check encoder.architecture and encoder.model_args") from None


def build_vit(
    architecture: str, model_args: Mapping[str, Any] | None = None, *, drop_path_rate: float = 0.0
) -> TimmModel:
    """A VisionTransformer with a class token, any image size, and DINO's start.

    Args:
        architecture: timm name, e.g. `vit_small_patch16_224`.
        model_args: overrides handed to `timm.create_model` (`img_size`, `patch_size`, `embed_dim`, `depth`, ...).
        drop_path_rate: stochastic depth of the last block; blocks before it ramp up linearly from 0.

    Raises:
        StageError: the name is unknown, an argument does not fit, or the model is no ViT with a class token.
    """
    model = build_model(architecture, {**exported_args(model_args or {}), "drop_path_rate": drop_path_rate})
    if not isinstance(model, VisionTransformer) or not model.has_class_token:
        what = f"'{architecture}' is not a VisionTransformer with a class token"
        raise StageError(what, do="name one, for example vit_small_patch16_224")
    start(model)
    return model


def exported_args(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """What `timm.create_model` needs to rebuild the encoder: no classifier, any image size, no stochastic depth."""
    kept = {name: value for name, value in model_args.items() if name != "drop_path_rate"}
    return {**kept, "num_classes": 0, "dynamic_img_size": True}


def uniform_drop_path(model: TimmModel, rate: float) -> None:
    """Give every block of a timm ViT the same stochastic depth (DINOv2, T-CoRe), where timm ramps it up from 0."""
    for block in model.blocks:
        block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)


@torch.no_grad()
def start(module: nn.Module) -> None:
    """DINO's start: linear weights, class token and positions from a normal of std 0.02 cut at +-2, biases zero.

    The patch embedding, a convolution, keeps the framework's start, and registers timm's, which is DINOv2's (a normal
    of std 1e-6). Draws come from torch's global generator, which the caller seeds.
    """
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("cls_token", "pos_embed"):
            nn.init.trunc_normal_(parameter, std=INIT_STD)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def load_exact(model: TimmModel, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Fill `model` from `tensors`; every weight must find its place.

    The position table alone may differ in size, it is resized to the model's grid. A key that is missing, surplus or
    of another shape is a StageError naming it: half a checkpoint loaded silently is the classic wrong result.
    """
    own = model.state_dict()
    tensors = dict(tensors)
    if "pos_embed" in own and "pos_embed" in tensors and own["pos_embed"].shape != tensors["pos_embed"].shape:
        tensors["pos_embed"] = _table_for(model, tensors["pos_embed"], where)
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"surplus {name}" for name in tensors if name not in own]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        what = f"the weights do not fit the architecture: {', '.join(wrong[:4])}{more}"
        raise StageError(what, where=where, do="name the architecture these weights were made for")
    model.load_state_dict(tensors)


def resize_positions(
    table: Tensor, grid: tuple[int, int], *, n_prefix: int = 1, quirk: bool = False, antialias: bool = False
) -> Tensor:
    """Position table (1, n_prefix + n*n, D) of a square grid, bicubically resized to `grid` (rows, columns).

    The rows of class and register tokens are not resized. `quirk` reproduces DINO's code, which passes the scale
    (n + 0.1) / n_old instead of the size; features of its released weights differ by it (a table of std 0.5 shifts
    by 0.05 to 0.09 on average). `antialias` is how timm, DINOv2 with registers and T-CoRe resize: another cubic kernel,
    smoothed where the table shrinks.
    """
    prefix, cells = table[:, :n_prefix], table[:, n_prefix:]
    side = round(cells.shape[1] ** 0.5)
    square = cells.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if quirk:
        scale = [(n + 0.1) / side for n in grid]
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic")
    else:
        resized = F.interpolate(square, size=list(grid), mode="bicubic", antialias=antialias)
    return torch.cat([prefix, resized.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], dim=1)


def resize_as_dino(model: TimmModel) -> None:
    """Let a ViT resize its positions for other image sizes as DINO's code does (`quirk`), not as timm does.

    timm asks for the size and smooths what shrinks. Weights and their names stay what they are; in timm, too, the
    encoder then gives what it was trained to give at its own size alone.
    """

    def embed(x: Tensor) -> Tensor:
        """Patches (B, rows, columns, D), as timm's `_pos_embed` takes them -> (B, n + rows * columns, D)."""
        grid, n = (x.shape[1], x.shape[2]), 0 if model.no_embed_class else model.num_prefix_tokens
        same = grid == tuple(model.patch_embed.grid_size)
        table = model.pos_embed if same else resize_positions(model.pos_embed, grid, n_prefix=n, quirk=True)
        tokens = [token.expand(len(x), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
        if model.no_embed_class:
            return model.pos_drop(torch.cat([*tokens, x.flatten(1, 2) + table], dim=1))
        return model.pos_drop(torch.cat([*tokens, x.flatten(1, 2)], dim=1) + table)

    model._pos_embed = embed


def tokens_and_attention(model: TimmModel, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Final tokens, and the last block's class attention, queries and keys, in one pass.

    Fused attention never forms the attention matrix, so queries and keys are computed a second time from the input
    of the last block (one linear layer, under 3 % of the pass).

    Args:
        model: timm VisionTransformer of two blocks or more; h heads of width d/h, n prefix tokens, N patches.
        images: (B, 3, H, W), normalised.

    Returns:
        tokens (B, n + N, d) after the final norm; class attention (B, h, N), the softmax over all tokens with the
        prefix columns then dropped; queries and keys of the patches, unscaled, heads concatenated, (B, N, d) each.
    """
    n, last = model.num_prefix_tokens, model.blocks[-1]
    tokens, inner = model.forward_intermediates(
        images, indices=[len(model.blocks) - 2], return_prefix_tokens=True, output_fmt="NLC"
    )
    patches, prefix = inner[0]
    q, k = queries_and_keys(last, torch.cat([prefix, patches], dim=1))
    return tokens, _class_row(q, k, last.attn.scale)[..., n:], _joined(q[:, :, n:]), _joined(k[:, :, n:])


def class_attention(block: Any, tokens: Tensor) -> Tensor:
    """What the class token looks at in a block that receives `tokens` (B, L, d): (B, h, L), rows sum to 1."""
    return _class_row(*queries_and_keys(block, tokens), block.attn.scale)


def queries_and_keys(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, unscaled, and keys of a block that receives `tokens` (B, L, d): (B, h, L, d/h) each."""
    attention = block.attn
    q, k, _ = attention.qkv(block.norm1(tokens)).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attention.q_norm(q), attention.k_norm(k)


def _class_row(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return ((q[:, :, :1] * scale) @ k.mT)[:, :, 0].softmax(dim=-1)


def _joined(heads: Tensor) -> Tensor:
    """(B, h, N, d/h) -> (B, N, d)."""
    return heads.transpose(1, 2).flatten(2)


def _table_for(model: TimmModel, table: Tensor, where: str | Path) -> Tensor:
    n_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    cells = table.shape[1] - n_prefix if table.ndim == 3 else 0
    if cells < 1 or math.isqrt(cells) ** 2 != cells:
        raise StageError(f"pos_embed {tuple(table.shape)} is no table of a square grid", where=where)
    return resize_positions(table, model.patch_embed.grid_size, n_prefix=n_prefix)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
