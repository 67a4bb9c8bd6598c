"""Per-tensor clipping and the two groups of AdamW against naive renditions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from components.pretrain.config import TrainerParams
from components.pretrain.optimiser import build_optimiser, clip_each, set_values
from components.pretrain.schedules import Values


def parameters_with_gradients(*scales: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i, scale in enumerate(scales):
        parameter = nn.Parameter(torch.zeros(3, i + 1))
        parameter.grad = scale * torch.randn(3, i + 1, generator=generator)
        made.append(parameter)
    return made


def test_each_tensor_is_clipped_by_its_own_norm() -> None:
    parameters = parameters_with_gradients(0.01, 1.0, 100.0)
    expected, squares = [], 0.0
    for p in parameters:
        assert p.grad is not None
        norm = math.sqrt(sum(float(g) ** 2 for g in p.grad.flatten()))
        squares += norm**2
        expected.append(p.grad * min(1.0, 3.0 / (norm + 1e-6)))
    assert float(clip_each(parameters, 3.0)) == pytest.approx(math.sqrt(squares), rel=1e-6)
    for p, e in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, e)
    assert float(parameters[0].grad.norm()) < 3.0  # type: ignore[union-attr]  # small ones are left alone
    assert float(parameters[2].grad.norm()) == pytest.approx(3.0, rel=1e-5)  # type: ignore[union-attr]


def test_clipping_can_be_off_and_skips_what_has_no_gradient() -> None:
    parameters = [*parameters_with_gradients(100.0), nn.Parameter(torch.zeros(2))]
    before = parameters[0].grad.clone()  # type: ignore[union-attr]
    norm = clip_each(parameters, None)
    assert torch.equal(parameters[0].grad, before)  # type: ignore[arg-type]
    assert float(norm) == pytest.approx(float(before.norm()))
    assert parameters[1].grad is None


def test_a_gradient_that_is_not_a_number_shows_in_the_norm() -> None:
    parameters = parameters_with_gradients(1.0, 1.0)
    parameters[1].grad[0, 0] = math.nan  # type: ignore[index]
    assert math.isnan(float(clip_each(parameters, 3.0)))


def test_decay_moves_matrices_only() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    net.register_parameter("cls_token", nn.Parameter(torch.ones(1, 1, 4)))
    net.register_parameter("frozen", nn.Parameter(torch.ones(4, 4), requires_grad=False))
    optimiser = build_optimiser(net, TrainerParams())
    set_values(optimiser, Values(lr=0.5, weight_decay=0.1, momentum=1.0))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for name, p in net.named_parameters():
        shrinks = name in ("0.weight", "cls_token")
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.1) if shrinks else before[name])


def test_a_step_equals_adamw_written_out() -> None:
    net, generator = nn.Linear(3, 2), torch.Generator().manual_seed(1)
    optimiser = build_optimiser(net, TrainerParams())
    w = net.weight.detach().double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, 4):
        lr, decay = 0.01 * t, 0.1 * t
        set_values(optimiser, Values(lr=lr, weight_decay=decay, momentum=1.0))
        g = torch.randn(2, 3, generator=generator)
        net.weight.grad, net.bias.grad = g, torch.zeros(2)
        optimiser.step()
        w = w * (1 - lr * decay)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.double() ** 2
        w = w - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    torch.testing.assert_close(net.weight.detach().double(), w, rtol=1e-5, atol=1e-7)
