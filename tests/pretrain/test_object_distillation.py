"""The loss over pairs of views that both show the object, against loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small import entropy, mean
from torch import Tensor

from components.pretrain.blocks.object_distillation import both_see, object_pair_loss
from components.pretrain.blocks.self_distillation import teacher_probabilities, view_pair_loss


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("pairs", ["others", "one2one", "all2all"])
@pytest.mark.parametrize("n_student", [2, 5])
def test_pairs(pairs: Any, n_student: int) -> None:
    teacher, student, centre = logits(2, 3, 6), logits(n_student, 3, 6, seed=1).requires_grad_(), logits(6, seed=2)
    shows = torch.rand(2 + n_student, 3, generator=torch.Generator().manual_seed(3)) < 0.7
    valid = both_see(shows[:2], shows[2:])
    loss = object_pair_loss(teacher_probabilities(teacher, centre, 0.3), student, 0.1, valid, pairs)
    wanted = {"others": lambda q, v: q != v, "one2one": lambda q, v: q == v, "all2all": lambda q, v: True}[pairs]
    expected = mean(
        mean(
            entropy(teacher[q, b], centre, 0.3, student[v, b]) if shows[q, b] and shows[2 + v, b] else 0.0
            for b in range(3)
        )
        for q in range(2)
        for v in range(n_student)
        if wanted(q, v)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_2_large_and_10_small_views_make_22_pairs() -> None:
    """Each pair that counts brings 1/22 of its entropy, log K between uniform distributions."""
    probs, student = torch.full((2, 1, 8), 1 / 8), torch.zeros(12, 1, 8)
    brought = 0.0
    for q in range(2):
        for v in range(12):
            valid = torch.zeros(2, 12, 1, dtype=torch.bool)
            valid[q, v] = True
            loss = float(object_pair_loss(probs, student, 0.1, valid, "others"))
            assert loss == pytest.approx(0.0 if q == v else math.log(8) / 22)
            brought += loss
    assert brought == pytest.approx(math.log(8))


def test_where_all_views_show_the_object_it_is_dinos_loss() -> None:
    probs, student = logits(2, 3, 6).softmax(-1), logits(5, 3, 6, seed=1)
    all_show = torch.ones(2, 5, 3, dtype=torch.bool)
    torch.testing.assert_close(
        object_pair_loss(probs, student, 0.1, all_show, "others"), view_pair_loss(probs, student, 0.1)
    )


def test_full_precision_under_autocast() -> None:
    probs, student = logits(2, 3, 500).softmax(-1).float(), logits(5, 3, 500, seed=1).float()
    valid = torch.ones(2, 5, 3, dtype=torch.bool)
    plain = object_pair_loss(probs, student, 0.1, valid, "others")
    with torch.autocast("cpu", torch.bfloat16):
        assert object_pair_loss(probs, student, 0.1, valid, "others") == plain
