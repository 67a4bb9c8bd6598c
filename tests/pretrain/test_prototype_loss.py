"""The loss without whole logits: against loops from the equations, against the dense blocks, and in its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from small import entropy
from torch import Tensor

from components.pretrain.blocks import prototype_loss as fused
from components.pretrain.blocks import self_distillation as dense
from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.prototype_loss import Scores, Targets

K, D, TAU, TAU_S = 20, 6, 0.3, 0.1


def draw(*shape: int, seed: int = 0, unit: bool = True) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1) if unit else x


@pytest.fixture(params=[1, 1 << 25], ids=["row by row", "in one chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", request.param)
    yield


def problem(teachers: int, students: int, things: int) -> tuple[Targets, Scores]:
    targets = Targets(scores(teachers, things, seed=1), draw(K, seed=2, unit=False), TAU)
    return targets, Scores(*(x.requires_grad_() for x in scores(students, things, seed=4)))


def scores(*lead: int, seed: int) -> Scores:
    """Directions of lengths 0.1 to 4, gains around 1."""
    directions = draw(K, D, seed=seed + 1) * torch.linspace(0.1, 4, K, dtype=torch.float64)[:, None]
    return Scores(draw(*lead, D, seed=seed), directions, 1 + 0.3 * draw(K, 1, seed=seed + 2, unit=False))


def prototypes(scores: Scores) -> Tensor:
    return scores.gains * torch.nn.functional.normalize(scores.directions, dim=-1)


def logits(scores: Scores) -> Tensor:
    return scores.vectors @ prototypes(scores).T


@pytest.mark.parametrize(("teachers", "students"), [(2, 5), (1, 3), (2, 2), (1, 1)])
def test_entropies_and_gradients_equal_the_equations(chunks: None, teachers: int, students: int) -> None:
    targets, student = problem(teachers, students, 4)
    weights = draw(teachers, students, 4, seed=5, unit=False)
    loss, each = fused.cross_entropies(targets, student, TAU_S, weights)
    told, own = logits(targets.scores), logits(student)
    expected = torch.stack([
        entropy(told[t, g], targets.centre, TAU, own[s, g], TAU_S)
        for t in range(teachers) for s in range(students) for g in range(4)
    ]).view(teachers, students, 4)  # fmt: skip
    torch.testing.assert_close(each, expected.detach(), rtol=1e-9, atol=1e-9)
    assert not each.requires_grad
    torch.testing.assert_close(loss, (weights * expected).sum(), rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(3 * loss, tuple(student))
    theirs = torch.autograd.grad(3 * (weights * expected).sum(), tuple(student))
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_gradcheck(chunks: None) -> None:
    targets, student = problem(2, 3, 2)
    weights = draw(2, 3, 2, seed=5, unit=False)
    assert torch.autograd.gradcheck(
        lambda *s: fused.cross_entropies(targets, Scores(*s), TAU_S, weights)[0], tuple(student)
    )


@pytest.mark.parametrize("skip_same", [True, False])
def test_view_pairs_equal_the_dense_block(chunks: None, skip_same: bool) -> None:
    targets, student = problem(2, 5, 3)
    ours = fused.view_pair_loss(targets, student, TAU_S, skip_same=skip_same)
    probs = dense.teacher_probabilities(logits(targets.scores), targets.centre, TAU)
    theirs = dense.view_pair_loss(probs, logits(student), TAU_S, skip_same=skip_same)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(loss, tuple(student)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(targets.some(), probs.flatten(0, 1), rtol=1e-9, atol=1e-9)
    assert torch.equal(targets.some(rows=4), targets.some()[:4])


def test_row_loss_equals_the_dense_block(chunks: None) -> None:
    targets, student = problem(2, 2, 3)
    ours = fused.row_loss(targets, student, TAU_S)
    probs = dense.teacher_probabilities(logits(targets.scores), targets.centre, TAU)
    theirs = dense.cross_entropy(probs, logits(student), TAU_S)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(loss, tuple(student)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_nothing_to_compare_costs_nothing() -> None:
    """T-CoRe's patch term in a step that hides no patch."""
    targets, student = problem(1, 2, 3)
    targets = targets._replace(scores=targets.scores._replace(vectors=targets.scores.vectors[:, :0]))
    none = student._replace(vectors=student.vectors[:, :0])
    loss, each = fused.cross_entropies(targets, none, TAU_S, torch.ones(1, 2, 0, dtype=torch.float64))
    assert loss == 0 and each.shape == (1, 2, 0)
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, tuple(student)))


def test_a_centre_takes_the_sum_without_the_rows() -> None:
    told = scores(2, 5, seed=1)
    a, b = Centre(K, 0.9).double(), Centre(K, 0.9).double()
    a.add(logits(told))
    b.add_sum(*told.sum())
    a.update()
    b.update()
    torch.testing.assert_close(a.value, b.value, rtol=1e-9, atol=1e-12)


def test_softmaxes_are_full_precision_under_autocast(chunks: None) -> None:
    """Products in bfloat16, as the linear layer's would be; all else in float32: as near as the dense blocks are."""
    targets, student = problem(2, 4, 3)
    targets = Targets(Scores(*(x.float() for x in targets.scores)), targets.centre.float(), 0.04)
    student = Scores(*(x.detach().float().requires_grad_() for x in student))
    with torch.autocast("cpu", torch.bfloat16):
        ours = fused.view_pair_loss(targets, student, TAU_S)
        own = torch.nn.functional.linear(student.vectors, prototypes(student))
        told = torch.nn.functional.linear(targets.scores.vectors, prototypes(targets.scores))
        assert own.dtype == torch.bfloat16
        theirs = dense.view_pair_loss(dense.teacher_probabilities(told, targets.centre, 0.04), own, TAU_S)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    for a, b in zip(*(torch.autograd.grad(loss, tuple(student)) for loss in (ours, theirs)), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(b.abs().max()))


def test_extreme_logits_stay_finite() -> None:
    told = scores(2, 3, seed=1)
    targets = Targets(told._replace(gains=told.gains * 1e4), torch.zeros(K, dtype=torch.float64), 1e-3)
    student = Scores(draw(4, 3, D, seed=3), told.directions.clone(), told.gains * 1e4)
    student = Scores(*(x.requires_grad_() for x in student))
    loss = fused.view_pair_loss(targets, student, 1e-3)
    assert all(torch.isfinite(x).all() for x in (loss, *torch.autograd.grad(loss, tuple(student))))


def test_disagreement_equals_the_logits_squared_difference(chunks: None) -> None:
    one, told = scores(3, seed=1), scores(3, seed=4)
    inputs = tuple(x.requires_grad_() for x in (one.vectors, told.vectors, one.directions, one.gains))
    ours = fused.disagreement(*inputs[:2], Scores(inputs[1], *inputs[2:]))
    theirs = ((inputs[0] - inputs[1]) @ prototypes(one).T).square().mean(dim=1).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(2 * total, inputs) for total in (ours, theirs)), strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    halved = [x.detach().bfloat16() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.disagreement(*halved[:2], Scores(halved[1], *halved[2:])).dtype == torch.float32
    empty = one.vectors[:0]
    assert fused.disagreement(empty, empty, one) == 0


MEMORY = """
import sys, torch
from pathlib import Path
from components.pretrain.blocks import prototype_loss as fused, self_distillation as dense
from components.pretrain.blocks.head import ProjectionHead
torch.set_num_threads(1)
K, B = 16384, 32
head = ProjectionHead(32, K, hidden_dim=32, bottleneck_dim=16, train_gain=True)
told, own, centre = torch.randn(2, B, 32), torch.randn(10, B, 32), torch.zeros(K)
fused.CHUNK_BYTES["cpu"] = 1 << 22
def peak():  # of this program; getrusage's would be inherited from the process that started it
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
before = peak()
if sys.argv[1] == "dense":
    with torch.no_grad():
        probs = dense.teacher_probabilities(head(told), centre, 0.04)
    loss = dense.view_pair_loss(probs, head(own), 0.1)
else:
    with torch.no_grad():
        scores = fused.Scores.of(head, told)
    loss = fused.view_pair_loss(fused.Targets(scores, centre, 0.04), fused.Scores.of(head, own), 0.1)
loss.backward()
print((peak() - before) // 1024, float(loss))
"""


@pytest.mark.slow
def test_half_the_memory_of_dense_logits() -> None:
    def peak_mib(kind: str) -> float:
        done = subprocess.run([sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[0])

    assert peak_mib("fused") < 0.5 * peak_mib("dense")
