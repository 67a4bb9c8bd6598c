"""The projection head against torch's own weight normalisation and plain layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from components.pretrain.blocks.head import ProjectionHead, Prototypes


def head(train_gain: bool = True) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(12, 30, hidden_dim=16, bottleneck_dim=8, train_gain=train_gain).double()


def test_equals_plain_layers_with_weight_norm() -> None:
    ours = head()
    theirs = weight_norm(nn.Linear(8, 30, bias=False, dtype=torch.float64))
    with torch.no_grad():
        ours.last_layer.gain.uniform_(0.5, 2)
        theirs.parametrizations.weight.original0.copy_(ours.last_layer.gain)
        theirs.parametrizations.weight.original1.copy_(ours.last_layer.direction)
    x = torch.randn(5, 7, 12, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in ours.mlp:  # Linear, GELU, Linear, GELU, Linear
        y = y @ layer.weight.T + layer.bias if isinstance(layer, nn.Linear) else 0.5 * y * (1 + torch.erf(y / 2**0.5))
    expected = theirs(y / y.pow(2).sum(-1, keepdim=True).sqrt())
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-12)

    weight = torch.randn_like(expected)
    (a,) = torch.autograd.grad((ours(x) * weight).sum(), x)
    (b,) = torch.autograd.grad((expected * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    layer = ours.last_layer
    ours_grads = torch.autograd.grad((ours(x) * weight).sum(), [layer.gain, layer.direction])
    original = theirs.parametrizations.weight
    theirs_grads = torch.autograd.grad((expected * weight).sum(), [original.original0, original.original1])
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_start() -> None:
    torch.manual_seed(0)
    fresh = ProjectionHead(64, 30, hidden_dim=256, bottleneck_dim=64, train_gain=True)
    for layer in fresh.mlp:
        if isinstance(layer, nn.Linear):
            assert abs(layer.weight.std().item() - 0.02) < 1e-3
            assert not layer.bias.any()
    assert torch.equal(fresh.last_layer.gain, torch.ones(30, 1))
    assert len(fresh.mlp) == 5


@pytest.mark.parametrize("train_gain", [True, False])
def test_gain(train_gain: bool) -> None:
    fresh = head(train_gain)
    logits = fresh(torch.randn(100, 12, dtype=torch.float64) * 50)
    assert logits.abs().max() <= 1  # cosines, while the gain is 1
    logits.square().sum().backward()
    assert (fresh.last_layer.gain.grad is not None) == train_gain
    assert fresh.last_layer.direction.grad is not None


def test_last_layer_is_known_by_name() -> None:
    assert {name for name, _ in head().named_parameters() if "last_layer" in name} == {
        "last_layer.gain",
        "last_layer.direction",
    }
    assert [p.shape for p in Prototypes(8, 30, True).parameters()] == [(30, 8), (30, 1)]
