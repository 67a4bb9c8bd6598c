"""A token that pools, in every block, from the patches of one object only (ODIS, arXiv:2506.05409).

The encoder stays a plain timm ViT: the token joins its sequence behind class token and registers, and a mask on the
token's own row of the attention says which patches it may read. The paper's text was not to be had beyond its abstract;
the layout is that of the published code derived from it (Cross-Time Self-Distillation), and the author's own variant,
in which the object token takes the class token's place, is `token=None`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.common.outputs import write_text
from components.common.vit import INIT_STD
from components.pretrain.blocks.masked_vit import masked_embeddings

Readers = Literal["all", "own", "none"]
FILE, HOW_TO = "object_token.safetensors", "object_token.json"


class ObjectToken(nn.Module):
    """The object token's vector and its own position, (1, D) each; both belong to the method, not to the encoder."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=INIT_STD))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=INIT_STD))


class ObjectTokens(NamedTuple):
    """Tokens after the final norm.

    Attributes:
        cls: class tokens (..., D).
        obj: object tokens (..., D); the class tokens themselves where those take their part.
        patches: patch tokens (..., P, D).
    """

    cls: Tensor
    obj: Tensor
    patches: Tensor


def object_tokens(
    backbone: Any,
    images: Tensor,
    token: ObjectToken | None,
    objects: Tensor | None = None,
    *,
    readers: Readers = "all",
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> ObjectTokens:
    """One pass of a plain ViT with an object token in the sequence [CLS, registers, OBJ, patches].

    Args:
        backbone: timm VisionTransformer.
        images: (..., 3, H, W), normalised.
        token: the object token; None: the class token is the object token (the paper's own layout).
        objects: bool (..., rows, columns), patches of the object; the token reads these, the class token, registers and
            itself. Where none is True it reads no patch. None: it reads every patch (local crops).
        readers: which other tokens may read the object token (see `attention_mask`).
        mask: bool (..., rows, columns), patches hidden from the network; None hides none.
        mask_token: stands in for them.
    """
    lead, n_prefix = images.shape[:-3], backbone.num_prefix_tokens
    hidden = None if mask is None else mask.flatten(0, -3)
    x = masked_embeddings(backbone, images.flatten(0, -4), hidden, mask_token)
    own = 0 if token is None else n_prefix
    if token is not None:
        x = torch.cat([x[:, :own], (token.value + token.position).to(x.dtype).expand(len(x), 1, -1), x[:, own:]], dim=1)
    first_patch = n_prefix if token is None else n_prefix + 1
    if objects is None and (token is None or readers == "all"):
        x = backbone.blocks(x)  # nothing to forbid: attention without a mask is faster
    else:
        patches = x.new_ones(1, x.shape[1] - first_patch, dtype=torch.bool) if objects is None else objects.flatten(-2)
        allowed = attention_mask(patches.flatten(0, -2), own, first_patch, "all" if token is None else readers)
        for block in backbone.blocks:
            x = block(x, attn_mask=allowed)
    found = backbone.norm(x).unflatten(0, lead)
    return ObjectTokens(found[..., 0, :], found[..., own, :], found[..., first_patch:, :])


def attention_mask(objects: Tensor, own: int, first_patch: int, readers: Readers) -> Tensor:
    """Who may attend to whom: bool (N, 1, S, S), rows ask, columns answer; True = allowed.

    The object token's row is open towards all tokens but the patches outside the object, so no row is ever empty.

    Args:
        objects: bool (N, P).
        own: place of the object token.
        first_patch: place of the first patch; S = first_patch + P.
        readers: who may read the object token. `all` as in the published code; `own`: patches of the object only (that
            code's `separate_obj_attn`); `none`: class token and patches are computed as if there were no object token,
            so the exported ViT gives, in full, the features that were trained.
    """
    size = first_patch + objects.shape[-1]
    allowed = objects.new_ones(len(objects), size, size)
    allowed[:, own, first_patch:] = objects
    if readers != "all":
        allowed[:, :, own] = False
        allowed[:, own, own] = True
    if readers == "own":
        allowed[:, first_patch:, own] = objects
    return allowed[:, None]


def save_token(folder: Path, token: ObjectToken, readers: Readers) -> list[Path]:
    """Write the object token beside its encoder, and how to use it as JSON; returns both files."""
    how_to = {
        "readers": readers,
        "sequence": ["class token", "registers", "object token: value + position", "patches"],
        "rule": "in every block the object token attends to all tokens but the patches outside the object",
    }
    save_file({name: value.detach().cpu().contiguous() for name, value in token.state_dict().items()}, folder / FILE)
    write_text(folder / HOW_TO, json.dumps(how_to, indent=2) + "\n")
    return [folder / FILE, folder / HOW_TO]


def load_token(folder: Path) -> tuple[ObjectToken, Readers]:
    """The object token of a model folder, and which tokens may read it."""
    tensors, how_to = load_file(folder / FILE), json.loads((folder / HOW_TO).read_text(encoding="utf-8"))
    token = ObjectToken(tensors["value"].shape[-1])
    token.load_state_dict(tensors)
    return token, how_to["readers"]
