"""Optimal transport: marginals, a naive rendition in float64, and scores that break the naive one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pretrain.blocks.sinkhorn import sinkhorn


def scores(*shape: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def naive(values: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """One sample (N, k), on exponentials, loop by loop."""
    n, k = values.shape
    plan = np.exp((values - values.max()) / epsilon).T
    plan /= plan.sum()
    for _ in range(iterations):
        for i in range(k):
            plan[i] /= plan[i].sum() * k
        for j in range(n):
            plan[:, j] /= plan[:, j].sum() * n
    return plan.T * n


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 30])
def test_equals_the_naive_one(epsilon: float, iterations: int) -> None:
    values = scores(2, 196, 3, spread=0.1)
    plan = sinkhorn(values, epsilon=epsilon, n_iterations=iterations)
    for sample, expected in zip(plan, values.numpy(), strict=True):
        np.testing.assert_allclose(sample.numpy(), naive(expected, epsilon, iterations), rtol=1e-9, atol=1e-12)


def test_marginals() -> None:
    plan = sinkhorn(scores(2, 196, 3, spread=0.05), epsilon=0.05, n_iterations=30)
    torch.testing.assert_close(plan.sum(-1), torch.ones(2, 196, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.sum(-2), torch.full((2, 3), 196 / 3, dtype=torch.float64), rtol=0.01, atol=0)


def test_prototypes_share_the_patches_of_a_batch_evenly() -> None:
    """TimeT: in the end each of K prototypes has R / K of the R patches, and each patch is shared out whole."""
    cosines = scores(1, 400, 20, spread=0.3).clamp(-1, 1)
    plan = sinkhorn(cosines, epsilon=0.05, n_iterations=60)
    torch.testing.assert_close(plan.sum(-1), torch.ones(1, 400, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(-2), torch.full((1, 20), 20.0, dtype=torch.float64), rtol=1e-4, atol=0)


@given(st.floats(0, 37), st.integers(1, 4), st.integers(2, 12), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_spread_and_shape(exponent: float, k: int, n: int, seed: int) -> None:
    values = scores(1, n, k, spread=10**exponent, seed=seed).float()
    plan = sinkhorn(values, epsilon=0.05, n_iterations=30)
    assert plan.dtype == torch.float32 and plan.isfinite().all() and (plan >= 0).all()
    torch.testing.assert_close(plan.sum(-1), torch.ones(1, n), rtol=0, atol=1e-5)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = sinkhorn(values[:, order], epsilon=0.05, n_iterations=30)
    torch.testing.assert_close(shuffled, plan[:, order], rtol=1e-4, atol=1e-6)


def test_a_patch_far_below_the_others_is_still_shared_out() -> None:
    values = scores(1, 20, 3, spread=0.01)
    lowered = values.clone()
    lowered[0, 4] -= 40  # the exponential of this row, at epsilon 0.05, is 0 even in float64
    with np.errstate(invalid="ignore"):
        assert np.isnan(naive(lowered[0].numpy(), 0.05, 30)).any()
    # a constant added to one patch's scores cannot change who gets it
    same = sinkhorn(values, epsilon=0.05, n_iterations=30)
    torch.testing.assert_close(sinkhorn(lowered, epsilon=0.05, n_iterations=30), same, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extremes(dtype: torch.dtype) -> None:
    values = scores(1, 8, 2).to(dtype)
    for extreme in (torch.finfo(dtype).max, torch.finfo(dtype).min, float("inf"), float("-inf")):
        values[0, 3, 1] = extreme
        plan = sinkhorn(values, epsilon=0.05, n_iterations=30)
        assert plan.dtype == torch.promote_types(dtype, torch.float32) and plan.isfinite().all()
        torch.testing.assert_close(plan.sum(-1), torch.ones(1, 8, dtype=plan.dtype), rtol=0, atol=1e-5)


def test_nan_stays_nan() -> None:
    values = scores(1, 8, 2)
    values[0, 0, 0] = float("nan")
    assert sinkhorn(values, epsilon=0.05, n_iterations=3).isnan().any()  # the trainer's NaN stop must see it
