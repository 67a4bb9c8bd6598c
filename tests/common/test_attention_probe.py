"""Queries, keys and values of the last block, against a pass written out by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from components.common.encoder import Encoder
from components.common.errors import StageError
from components.common.vit import build_model


def naive(model: timm.models.VisionTransformer, images: Tensor) -> dict[str, Tensor]:
    """The tokens that enter the last block, its norm, its linear layer, and heads joined one after another."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    attention = model.blocks[-1].attn
    rows = model.blocks[-1].norm1(tokens) @ attention.qkv.weight.T + attention.qkv.bias
    width, heads = tokens.shape[-1], attention.num_heads
    found = {}
    for number, name in enumerate("qkv"):
        part = rows[..., number * width : (number + 1) * width][:, model.num_prefix_tokens :]
        if name != "v":
            norm = getattr(attention, f"{name}_norm")
            part = torch.cat([norm(head) for head in part.chunk(heads, dim=-1)], dim=-1)
        found[name] = part
    return found


@pytest.mark.parametrize("more", [{}, {"qk_norm": True, "reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
def test_projections(more: dict[str, object]) -> None:
    args = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "dynamic_img_size": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(build_model("vit_tiny_patch16_224", {**args, **more}))
        for parameter in encoder.model.parameters():  # biases and norms start at 0 and 1, which would hide errors
            parameter.normal_(std=0.3)
    images = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    expected = naive(encoder.model, images)
    for name in ("q", "k", "v"):
        found = encoder.keys(images, name)  # type: ignore[arg-type]
        assert found.shape == (2, 4, 2, 24)
        torch.testing.assert_close(found.flatten(1, 2), expected[name])
    torch.testing.assert_close(encoder.keys(images).flatten(1, 2), expected["k"])
    assert not encoder.model.blocks[-1].attn.qkv._forward_hooks


def test_other_models_are_refused() -> None:
    encoder = Encoder(build_model("resnet10t"))
    with pytest.raises(StageError, match="ResNet has no qkv layer in its last block"):
        encoder.keys(torch.zeros(1, 3, 32, 32))
