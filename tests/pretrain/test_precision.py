"""Half precision: a pass of each method in bfloat16 is that in float32 but for rounding; products are in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every import ARGS, method_of, params, quiet
from small import now, small_batch
from torch import Tensor

from components.pretrain.blocks import prototype_loss
from components.pretrain.blocks.head import ProjectionHead
from components.pretrain.blocks.prototype_loss import Scores, Targets
from components.pretrain.run import build_method


def passed(entry: str, half: bool) -> tuple[float, Tensor]:
    """Loss and gradient of one forward and backward pass in single precision, with autocast or without."""
    method: Any = build_method(params(entry, quiet(entry)), epochs=3)
    batch = {k: v.float() if v.is_floating_point() else v for k, v in small_batch(method, size=2).items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        [batch] = method.before_step([batch], now())
        loss = method(batch, now()).loss
    loss.backward()
    grads = [p.grad.flatten() for p in method.student.parameters() if p.grad is not None]
    assert loss.dtype == torch.float32 and all(grad.dtype == torch.float32 for grad in grads)
    return loss.item(), torch.cat(grads)


# timet is left out: its labels are the likeliest ones, and rounding may turn some round
@pytest.mark.parametrize("entry", [entry for entry in ARGS if method_of(entry) != "timet"])
def test_bfloat16_rounds_and_changes_nothing_else(entry: str) -> None:
    (single, grad), (half, rounded) = passed(entry, False), passed(entry, True)
    assert half == pytest.approx(single, rel=0.02, abs=0.05) and half != single
    assert (grad - rounded).norm() < 0.1 * grad.norm()


def test_logits_are_products_in_autocasts_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the vectors come in float32, as normalisation leaves them on a GPU."""
    head, x = ProjectionHead(8, 16, hidden_dim=8, bottleneck_dim=4, train_gain=True), torch.randn(2, 3, 8)
    kinds: list[torch.dtype] = []
    plain = prototype_loss._operand

    def operand(x: Tensor) -> Tensor:
        kinds.append(plain(x).dtype)
        return plain(x)

    monkeypatch.setattr(prototype_loss, "_operand", operand)
    for half, kind in ((False, torch.float32), (True, torch.bfloat16)):
        student, teacher = Scores.of(head, x), Scores(*(part.detach() for part in Scores.of(head, x)))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            prototype_loss.view_pair_loss(Targets(teacher, torch.zeros(16), 0.04), student, 0.1)
        assert kinds == [kind] * len(kinds) and kinds
        kinds.clear()
