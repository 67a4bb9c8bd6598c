"""Collapse monitors against naive renditions, and on features that have collapsed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import ExitCode, StageError
from components.pretrain import guards
from components.pretrain.config import GuardParams


def random_features(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    scales = torch.logspace(0, -3, columns)
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scales


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (7, 7)])
def test_rankme_equals_the_singular_value_formula(shape: tuple[int, int]) -> None:
    features = random_features(*shape)
    values = np.linalg.svd(features.double().numpy(), compute_uv=False)
    shares = values / values.sum() + 1e-7
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert float(guards.rankme(features)) == pytest.approx(expected, rel=1e-6)


def test_rankme_counts_the_dimensions_that_are_used() -> None:
    basis = torch.eye(6)
    assert float(guards.rankme(basis.repeat(10, 1))) == pytest.approx(6, rel=1e-4)
    assert float(guards.rankme(basis[:1].repeat(10, 1))) == pytest.approx(1, rel=1e-4)
    assert math.isnan(float(guards.rankme(torch.full((3, 2), math.inf))))


def test_feature_std_is_one_for_spread_and_zero_for_equal_features() -> None:
    spread = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert float(guards.feature_std(spread)) == pytest.approx(1, abs=0.01)
    assert float(guards.feature_std(torch.ones(10, 32) * torch.arange(1, 11)[:, None])) == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=20))
def test_entropy_equals_the_sum(weights: list[float]) -> None:
    p = np.array(weights) / sum(weights)
    assert float(guards.entropy(torch.tensor(p))) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4, abs=1e-5)


def test_entropy_of_a_certain_target_is_zero() -> None:
    assert float(guards.entropy(torch.tensor([0.0, 1.0]))) == 0


GOOD = {"teacher_entropy": 0.5, "teacher_spread": 0.9, "feature_std": 0.9, "rankme": 20.0}


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("teacher_entropy", 1.0, "targets are uniform"),
        ("teacher_spread", 0.001, "one prototype"),
        ("feature_std", 0.0, "same way"),
        ("rankme", 1.0, "too few dimensions"),
    ],
)
def test_each_kind_of_collapse_has_its_words(figure: str, value: float, words: str) -> None:
    limits = GuardParams(patience=2)
    bad = {**GOOD, figure: value}
    assert guards.collapsed(GOOD, limits) is None
    assert words in str(guards.collapsed(bad, limits))
    assert guards.collapse_sign([GOOD, bad], limits) is None, "one bad report is not collapse"
    assert words in str(guards.collapse_sign([GOOD, bad, bad], limits))
    assert guards.collapse_sign([bad, GOOD], limits) is None


def test_figures_that_a_method_does_not_report_are_no_sign() -> None:
    assert guards.collapse_sign([{"loss": 1.0}], GuardParams(patience=1)) is None


def test_the_first_step_that_is_not_finite_is_named() -> None:
    values = [[1.0, 2.0], [1.0, math.nan], [math.inf, math.nan]]
    with pytest.raises(StageError) as error:
        guards.check_finite(range(40, 43), ["loss", "dino"], values, [0.1, 0.2, 0.3])
    assert "at step 41" in str(error.value) and "dino is nan" in str(error.value) and "0.2" in str(error.value)
    assert "in the term dino" in str(error.value) and "loss is" not in str(error.value)
    assert error.value.code == ExitCode.STOPPED


def test_a_gradient_that_is_not_finite_is_told_from_a_term() -> None:
    with pytest.raises(StageError, match="at step 7 going backward, all terms are finite \\(grad_norm is inf\\)"):
        guards.check_finite(range(7, 8), ["loss", "dino", "grad_norm"], [[1.0, 1.0, math.inf]], [0.1])
