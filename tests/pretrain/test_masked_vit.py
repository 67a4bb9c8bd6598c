"""Masked patches in a plain ViT: equal to timm where nothing is hidden, blind to what is hidden, told where it lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.common.vit import build_vit
from components.pretrain.blocks.masked_vit import MaskToken, masked_embeddings, masked_tokens

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
KINDS: list[dict[str, Any]] = [
    {},
    {"reg_tokens": 2},
    {"reg_tokens": 2, "no_embed_class": True},
    {"pre_norm": True, "init_values": 0.1},
]


def vit(drop_path_rate: float = 0.0, **more: Any) -> Any:
    torch.manual_seed(0)
    return build_vit("vit_tiny_patch16_224", SMALL | more, drop_path_rate=drop_path_rate)


def images(*lead: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(*lead, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (24, 40)])
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_hidden_is_the_plain_network(kind: dict[str, Any], size: tuple[int, int], masked: bool) -> None:
    backbone, batch = vit(**kind), images(2, 3, height=size[0], width=size[1])
    mask = torch.zeros(2, 3, size[0] // 8, size[1] // 8, dtype=torch.bool) if masked else None
    cls, patches = masked_tokens(backbone, batch, mask, torch.randn(1, 24))
    plain = backbone.forward_features(batch.flatten(0, 1)).unflatten(0, (2, 3))
    assert torch.equal(cls, plain[..., 0, :])
    assert torch.equal(patches, plain[..., backbone.num_prefix_tokens :, :])


def test_drop_path_draws_what_the_plain_network_draws() -> None:
    backbone, batch = vit(drop_path_rate=0.5).train(), images(8)
    torch.manual_seed(3)
    cls, _ = masked_tokens(backbone, batch, torch.zeros(8, 4, 4, dtype=torch.bool), torch.zeros(1, 24))
    torch.manual_seed(3)
    assert torch.equal(cls, backbone.forward_features(batch)[:, 0])
    assert not torch.equal(cls, vit().forward_features(batch)[:, 0])


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_hidden_patches_are_token_plus_position(kind: dict[str, Any]) -> None:
    backbone, token, batch = vit(**kind), torch.randn(1, 24), images(2)
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    x, plain = masked_embeddings(backbone, batch, mask, token), masked_embeddings(backbone, batch)
    n, table = backbone.num_prefix_tokens, backbone.pos_embed
    positions = table if kind.get("no_embed_class") else table[:, n:]
    assert torch.equal(x[:, :n], plain[:, :n])
    for b in range(2):
        for cell in range(16):
            hidden = bool(mask[b, cell // 4, cell % 4])  # row by row, as the convolution leaves them
            expected = token[0] + positions[0, cell] if hidden else plain[b, n + cell]
            torch.testing.assert_close(x[b, n + cell], expected)


def test_what_is_hidden_cannot_be_seen() -> None:
    backbone, batch = vit(), images(1)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    other = batch.clone()
    other[0, :, 8:16, 16:24] = 7.0
    for a, b in zip(masked_tokens(backbone, batch, mask, torch.ones(24)),
                    masked_tokens(backbone, other, mask, torch.ones(24)), strict=True):  # fmt: skip
        assert torch.equal(a, b)
    assert not torch.equal(masked_tokens(backbone, batch)[0], masked_tokens(backbone, other)[0])


def test_the_token_learns_from_hidden_patches_alone() -> None:
    backbone, batch, token = vit(), images(1), MaskToken(24)
    assert token.value.shape == (1, 24) and not token.value.any()
    none = torch.zeros(1, 4, 4, dtype=torch.bool)
    for mask, learns in ((none, False), (~none, True)):
        token.zero_grad()
        masked_tokens(backbone, batch, mask, token.value)[0].square().sum().backward()
        assert token.value.grad is not None and bool(token.value.grad.any()) == learns


def test_a_mask_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a mask token"):
        masked_tokens(vit(), images(1), torch.ones(1, 4, 4, dtype=torch.bool))
