"""Patch matching against loops over heads and patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from components.pretrain.blocks.patch_matching import PatchMatching

DIM, HEADS, GAIN = 8, 2, 3.0


def module() -> PatchMatching:
    torch.manual_seed(0)
    built = PatchMatching(DIM, heads=HEADS, gain=GAIN).double()
    with torch.no_grad():
        for parameter in built.parameters():  # biases and norms start at 0 and 1, where a slip would not show
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built


def frames(seed: int, n: int = 5) -> Tensor:
    return torch.randn(3, n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(layer: nn.MultiheadAttention, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """One sample, (N, D) and (M, D), patch by patch and head by head: output (N, D), weights (N, M)."""
    (wq, wk, wv), (bq, bk, bv) = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    width = DIM // HEADS
    outputs, maps = [], []
    for row in query:
        heads, weights = [], query.new_zeros(len(keys))
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            q = (wq @ row + bq)[part]
            scores = torch.stack([q @ (wk @ key + bk)[part] / width**0.5 for key in keys])
            shares = scores.exp() / scores.exp().sum()
            heads.append(sum(s * (wv @ key + bv)[part] for s, key in zip(shares, keys, strict=True)))
            weights = weights + shares / HEADS
        outputs.append(layer.out_proj.weight @ torch.cat(heads) + layer.out_proj.bias)
        maps.append(weights)
    return torch.stack(outputs), torch.stack(maps)


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def naive(pmm: PatchMatching, x: Tensor, other: Tensor) -> Tensor:
    results = []
    for mine, theirs in zip(x, other, strict=True):
        u = norm(pmm.norm1, GAIN * attend(pmm.cross, mine, theirs)[0] + mine)
        v = norm(pmm.norm2, attend(pmm.itself, u, u)[0] + u)
        results.append(norm(pmm.norm3, v @ pmm.linear.weight.T + pmm.linear.bias + v))
    return torch.stack(results)


def test_equals_the_loops() -> None:
    pmm, x, other = module(), frames(1).requires_grad_(), frames(2, n=4)
    found, expected = pmm(x, other), naive(pmm, x, other)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    wanted = [x, *pmm.parameters()]
    weights = frames(3)
    ours = torch.autograd.grad((found * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_attention_is_the_mean_over_heads() -> None:
    pmm, x, other = module(), frames(1), frames(2, n=4)
    expected = torch.stack([attend(pmm.cross, a, b)[1] for a, b in zip(x, other, strict=True)])
    torch.testing.assert_close(pmm.attention(x, other), expected)
    torch.testing.assert_close(pmm.attention(x, other).sum(-1), torch.ones(3, 5, dtype=torch.float64))


@pytest.mark.parametrize(("dim", "weights"), [(384, 1_332_864), (768, 5_319_936)])
def test_published_sizes(dim: int, weights: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in PatchMatching(dim).parameters()) == weights
