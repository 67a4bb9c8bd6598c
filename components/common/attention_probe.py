"""What the last attention layer of a timm VisionTransformer computes, caught by a hook on its `qkv` layer."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from components.common.errors import StageError

Projection = Literal["q", "k", "v"]


def last_projection(model: Any, images: Tensor, which: Projection) -> Tensor:
    """Queries, keys or values of the patches in the last block, heads concatenated: (B, N, D).

    Class and register tokens are dropped. Queries are unscaled; queries and keys are those that attention compares,
    after the per-head norm of models that have one.

    Args:
        model: timm VisionTransformer, or any model whose blocks hold `attn.qkv` and that says its prefix tokens.
        images: (B, 3, H, W), normalised, sides multiples of the patch.

    Raises:
        StageError: the model has no such layer (convolutional nets, ViTs with separate projections).
    """
    blocks = list(getattr(model, "blocks", []))
    attention: Any = getattr(blocks[-1], "attn", None) if blocks else None
    if getattr(attention, "qkv", None) is None:
        what = f"{type(model).__name__} has no qkv layer in its last block"
        raise StageError(what, do="name a timm VisionTransformer, for example vit_small_patch16_224")
    caught: list[Tensor] = []
    hook = attention.qkv.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        model.forward_features(images)
    finally:
        hook.remove()
    q, k, v = caught[0].unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, L, D/h) each
    wanted = {"q": lambda: attention.q_norm(q), "k": lambda: attention.k_norm(k), "v": lambda: v}[which]()
    return wanted.transpose(1, 2).flatten(2)[:, model.num_prefix_tokens :]
