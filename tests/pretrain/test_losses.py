"""Cross-entropies, temperatures and centres against loops written from the equations."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import entropy, mean
from torch import Tensor

from components.common.errors import StageError
from components.pretrain.blocks import self_distillation as blocks
from components.pretrain.blocks.centre import Centre


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("skip_same", [True, False])
@pytest.mark.parametrize(("n_teacher", "n_student"), [(2, 5), (1, 3), (2, 2)])
def test_view_pairs(n_teacher: int, n_student: int, skip_same: bool) -> None:
    teacher, student, centre = logits(n_teacher, 3, 6), logits(n_student, 3, 6, seed=1), logits(6, seed=2)
    student.requires_grad_()
    loss = blocks.view_pair_loss(blocks.teacher_probabilities(teacher, centre, 0.3), student, 0.1, skip_same=skip_same)
    expected = mean(
        mean(entropy(teacher[t, b], centre, 0.3, student[s, b]) for b in range(3))
        for t in range(n_teacher)
        for s in range(n_student)
        if not (skip_same and s == t)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_cross_entropy() -> None:
    teacher, student, centre = logits(2, 3, 4, 6), logits(2, 3, 4, 6, seed=1).requires_grad_(), logits(6, seed=2)
    loss = blocks.cross_entropy(blocks.teacher_probabilities(teacher, centre, 0.2), student, 0.1)
    rows = zip(teacher.flatten(0, 2), student.flatten(0, 2), strict=True)
    expected = mean(entropy(t, centre, 0.2, s) for t, s in rows)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_softmaxes_are_full_precision_under_autocast() -> None:
    teacher, student, centre = (x.float() for x in (logits(2, 3, 500), logits(4, 3, 500, seed=1), logits(500)))

    def losses() -> list[Tensor]:
        probs = blocks.teacher_probabilities(teacher, centre, 0.04)
        assert probs.dtype == torch.float32
        return [blocks.view_pair_loss(probs, student, 0.1), blocks.cross_entropy(probs[0], student[0], 0.1)]

    plain = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert losses() == plain
    halved = blocks.teacher_probabilities(teacher.bfloat16(), centre, 0.04)
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved.sum(-1), torch.ones(2, 3))


def test_targets_carry_no_gradient() -> None:
    assert not blocks.teacher_probabilities(logits(2, 6).requires_grad_(), logits(6), 0.1).requires_grad


@given(st.floats(0.01, 0.1), st.floats(0.01, 0.1), st.integers(0, 40))
def test_temperature_equals_dinos_table(first: float, last: float, warmup: int) -> None:
    table = np.concatenate((np.linspace(first, last, warmup), np.ones(60 - warmup) * last))
    ours = [blocks.teacher_temperature(epoch, first, last, warmup) for epoch in range(60)]
    np.testing.assert_allclose(ours, table, rtol=1e-12)


def test_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(StageError, match="'warmup' = 30 is longer than the run of 5 epochs"):
        blocks.check_warmup("warmup", 30, 5)
    blocks.check_warmup("warmup", 30, 30)
    blocks.check_warmup("warmup", 30, 0)  # the untrained encoder


def test_centre_is_one_average_of_everything_in_a_step() -> None:
    centre = Centre(6, momentum=0.9).double()
    centre.value.copy_(logits(6, seed=9))
    first, second = logits(2, 3, 6), logits(5, 6, seed=1)
    expected = 0.9 * centre.value + 0.1 * torch.cat([first.reshape(6, 6), second]).mean(0)
    centre.add(first)
    centre.add(second)
    assert torch.equal(centre.value, logits(6, seed=9))  # the loss of this step still sees the old one
    centre.update()
    torch.testing.assert_close(centre.value, expected)
    centre.update()  # nothing new: nothing moves
    torch.testing.assert_close(centre.value, expected)
    assert centre.state_dict().keys() == {"value"}


def test_centre_sums_half_precision_in_full() -> None:
    centre = Centre(4, momentum=0.0)
    centre.add(torch.full((4096, 4), 1.0, dtype=torch.bfloat16))  # bfloat16 sums of ones stop at 256
    centre.update()
    assert torch.equal(centre.value, torch.ones(4))


def _one_rank(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    centre = Centre(6, momentum=0.5).double()
    centre.add(logits(7, 6)[:2] if rank == 0 else logits(7, 6)[2:])
    centre.update()
    torch.save(centre.value, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_centre_over_two_processes_is_that_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_one_rank, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(2):
        value = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(value, 0.5 * logits(7, 6).mean(0))
