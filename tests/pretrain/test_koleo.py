"""KoLeo against a loop over pairs, and against being shared out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from components.common.errors import StageError
from components.pretrain.blocks.koleo import koleo


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(view: Tensor, group: int) -> Tensor:
    """One view (B, D), sample by sample."""
    unit = torch.stack([row / row.square().sum().sqrt() for row in view])
    total = view.new_zeros(())
    for b, row in enumerate(unit):
        first = b // group * group
        others = [o for o in range(first, first + group) if o != b]
        nearest = max(others, key=lambda o: float(row.detach() @ unit[o].detach()))
        total = total - torch.log((row - unit[nearest] + 1e-8).square().sum().sqrt() + 1e-8)
    return total / len(view)


@pytest.mark.parametrize("group", [2, 3, 12])
def test_equals_the_loop(group: int) -> None:
    ours, theirs = rows(2, 12, 5).requires_grad_(), rows(2, 12, 5).requires_grad_()
    found = koleo(ours, group)
    expected = torch.stack([naive(view, group) for view in theirs])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([1.0, 0.3], dtype=torch.float64)
    (found @ weights).backward()
    (expected @ weights).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_shares_of_a_batch_give_the_whole(parts: int) -> None:
    features = rows(2, 16, 6)
    shares = torch.stack([koleo(share, 4) for share in features.chunk(parts, dim=1)])
    torch.testing.assert_close(shares.mean(0), koleo(features, 4), rtol=1e-12, atol=1e-12)


def test_two_equal_rows_cost_a_finite_amount() -> None:
    width = 7
    features = rows(1, 1, width).expand(1, 2, width).clone().requires_grad_()
    found = koleo(features, 2)
    assert found.item() == pytest.approx(-math.log((math.sqrt(width) + 1) * 1e-8), rel=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert torch.isfinite(gradient).all()


def test_scale_does_not_count_and_spreading_lowers_it() -> None:
    features = rows(1, 8, 4)
    torch.testing.assert_close(koleo(7 * features, 8), koleo(features, 8))
    close = features[:, :1] + 0.01 * features
    assert koleo(close, 8) > koleo(features, 8)


def test_full_precision_under_autocast() -> None:
    features = rows(2, 4, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = koleo(features, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, koleo(features, 4))


def test_a_group_that_would_be_cut_is_refused() -> None:
    with pytest.raises(StageError, match="koleo_group = 4 does not divide the 6 samples"):
        koleo(rows(2, 6, 3), 4)
