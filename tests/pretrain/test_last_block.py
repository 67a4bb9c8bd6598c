"""Tokens read of a last block that serves them alone: as in the whole pass, gradients and dropped paths too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from components.pretrain.blocks.last_block import class_tokens, first_token, hidden_tokens, some_tokens
from components.pretrain.blocks.masked_vit import masked_tokens
from components.pretrain.blocks.self_distillation import tokens

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "dynamic_img_size": True}


def vit(**more: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**SIZE, **more}).double()
    for parameter in model.parameters():  # LayerScale and positions that would hide a mistake
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"qkv_bias": False, "qk_norm": True},
        {"init_values": 0.1, "reg_tokens": 4, "no_embed_class": True},
        {"drop_path_rate": 0.4},
        {"pre_norm": True},
    ],
    ids=str,
)
def test_as_in_the_whole_pass(more: dict[str, Any]) -> None:
    model = vit(**more).train()
    images = torch.randn(2, 3, 3, 40, 32, dtype=torch.float64)
    mask = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[0, 1] = False
    token = torch.randn(1, 24, dtype=torch.float64)

    def whole(hide: bool) -> list[torch.Tensor]:
        cls, patches = masked_tokens(model, images, mask, token) if hide else tokens(model, images)
        return [cls, patches[mask.flatten(-2)]]

    same_passes(model, lambda: [tokens(model, images)[0]], lambda: [class_tokens(model, images)])
    for hide in (True, False):
        own = token if hide else None
        same_passes(model, lambda: whole(hide), lambda: list(hidden_tokens(model, images, mask, own)))  # noqa: B023


def same_passes(model: Any, *ways: Callable[[], list[torch.Tensor]]) -> None:
    """Equal results and equal gradients of every weight, with the same dropped paths."""
    seen = []
    for look in ways:
        model.zero_grad()
        torch.manual_seed(1)
        found = torch.cat([x.flatten() for x in look()])
        (found * torch.linspace(-1, 1, len(found), dtype=torch.float64)).sum().backward()
        seen.append((found.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (whole, a), (some, b) = seen
    torch.testing.assert_close(some, whole, rtol=0, atol=1e-10)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            b[name], a[name], rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_block_of_another_kind_is_passed_whole() -> None:
    block = vit().blocks[-1]

    class Other(type(block)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    x = torch.randn(2, 5, 24, dtype=torch.float64)
    usual = first_token(block, x)
    block.__class__ = Other
    torch.testing.assert_close(first_token(block, x), 2 * usual)
    read = torch.tensor([[True, False, True, False, False], [False] * 4 + [True]])
    torch.testing.assert_close(some_tokens(block, x, read), block(x)[read])
