"""Clipping of tensors and modules, and the groups of AdamW, against naive renditions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from components.pretrain.config import TrainerParams
from components.pretrain.method import Method
from components.pretrain.optimiser import Clipping, build_optimiser, set_values
from components.pretrain.schedules import Values


class Plain(Method):
    """A method that is its student alone."""

    def __init__(self, **student: nn.Module) -> None:
        super().__init__()
        self.student = nn.ModuleDict(student)

    def views(self, *_: Any) -> Any: ...  # type: ignore[override]
    def forward(self, *_: Any) -> Any: ...  # type: ignore[override]


class Scaled(Plain):
    """Rates, decay and clipping of its own, by name."""

    def lr_scale(self, name: str) -> float:
        return 0.1 if name.startswith("b.") else 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return name == "a.weight"

    def clip_group(self, name: str) -> str:
        return "all" if name.startswith(("a.", "b.")) else name


def with_gradients(kind: type[Plain], *scales: float) -> Plain:
    generator = torch.Generator().manual_seed(0)
    method = kind(**{name: nn.Linear(3, 2) for name, _ in zip("abc", scales, strict=False)})
    for name, parameter in method.student.named_parameters():
        parameter.grad = scales["abc".index(name[0])] * torch.randn(parameter.shape, generator=generator)
    return method


def norm_of(grads: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(g) ** 2 for grad in grads for g in grad.flatten()))


def grads_of(method: Plain) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in method.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "clip", "groups"),
    [
        (Plain, "tensor", [["a.weight"], ["a.bias"], ["b.weight"], ["b.bias"], ["c.weight"], ["c.bias"]]),
        (Plain, "module", [["a.weight", "a.bias"], ["b.weight", "b.bias"], ["c.weight", "c.bias"]]),
        (Scaled, "module", [["a.weight", "a.bias", "b.weight", "b.bias"], ["c.weight"], ["c.bias"]]),
    ],
)
def test_each_group_is_clipped_by_its_own_norm(kind: type[Plain], clip: str, groups: list[list[str]]) -> None:
    method = with_gradients(kind, 0.01, 1.0, 100.0)
    before = grads_of(method)
    expected: dict[str, torch.Tensor] = {}
    for names in groups:
        norm = norm_of([before[name] for name in names])
        expected |= {name: before[name] * min(1.0, 3.0 / (norm + 1e-6)) for name in names}
    whole = float(Clipping(method, TrainerParams(clip=clip))())  # type: ignore[arg-type]
    assert whole == pytest.approx(norm_of(list(before.values())), rel=1e-6)
    for name, grad in grads_of(method).items():
        torch.testing.assert_close(grad, expected[name])
    assert norm_of([expected[name] for name in groups[-1]]) == pytest.approx(3.0, rel=1e-5)
    assert torch.equal(grads_of(method)["a.weight"], before["a.weight"]), "small ones are left alone"


def test_clipping_can_be_off_and_a_gradient_that_is_missing_is_zero() -> None:
    method = with_gradients(Plain, 100.0, 1.0)
    method.student["b"].weight.grad = None  # type: ignore[union-attr]
    before = grads_of(method)
    norm = float(Clipping(method, TrainerParams(clip_norm=None))())
    assert norm == pytest.approx(norm_of(list(before.values())))
    after = grads_of(method)
    assert torch.equal(after.pop("b.weight"), torch.zeros(2, 3))
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_a_gradient_that_is_not_a_number_shows_in_the_norm() -> None:
    method = with_gradients(Plain, 1.0, 1.0)
    next(method.student.parameters()).grad.fill_(math.nan)  # type: ignore[union-attr]
    assert math.isnan(float(Clipping(method, TrainerParams())()))


def moved(method: Plain, lr: float, decay: float) -> dict[str, torch.Tensor]:
    """What one step with zero gradients, which is weight decay alone, leaves of each weight of one."""
    optimiser = build_optimiser(method, TrainerParams())
    set_values(optimiser, Values(lr=lr, weight_decay=decay, momentum=1.0))
    with torch.no_grad():
        for p in method.student.parameters():
            p.fill_(1.0)
            p.grad = torch.zeros_like(p)
    optimiser.step()
    return {name: p.detach() for name, p in method.student.named_parameters()}


def test_decay_moves_matrices_only() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    net.register_parameter("cls_token", nn.Parameter(torch.ones(1, 1, 4)))
    net.register_parameter("frozen", nn.Parameter(torch.ones(4, 4), requires_grad=False))
    for name, p in moved(Plain(net=net), lr=0.5, decay=0.1).items():
        shrinks = name in ("net.0.weight", "net.cls_token")
        torch.testing.assert_close(p, torch.full_like(p, 1 - 0.5 * 0.1 if shrinks else 1.0))


def test_a_method_says_what_learns_how_fast_and_what_decays() -> None:
    method = Scaled(a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    optimiser = build_optimiser(method, TrainerParams())
    set_values(optimiser, Values(lr=0.5, weight_decay=0.1, momentum=1.0))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimiser.param_groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in method.student.named_parameters()} == {
        "a.weight": (0.5, 0.1), "a.bias": (0.5, 0.0), "b.weight": (0.05, 0.0), "b.bias": (0.05, 0.0),
    }  # fmt: skip
    assert len(optimiser.param_groups) == 3


def test_a_step_equals_adamw_written_out() -> None:
    net, generator = nn.Linear(3, 2), torch.Generator().manual_seed(1)
    optimiser = build_optimiser(Plain(net=net), TrainerParams())
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
