"""DINO against its equations, and the invariants that every step must keep."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from small import (
    NETWORK,
    assert_accumulates,
    assert_drops_paths_in_student_only,
    assert_follows,
    assert_freezes_prototypes,
    assert_same_gradients,
    entropy,
    mean,
    now,
    small_batch,
    small_method,
)
from torch import Tensor

from components.common.errors import StageError
from components.common.vit import build_vit
from components.pretrain.method import Method
from components.pretrain.methods.dino import DINO


def naive(method: Method, batch: dict[str, Tensor], tau: float) -> Tensor:
    """Every sample and view on its own through the networks, every pair on its own through the loss."""

    def logits(network: torch.nn.ModuleDict, image: Tensor) -> Tensor:
        return network["head"](network["backbone"](image[None]))[0]

    def one(b: int) -> Tensor:
        large = batch["global"][b, :, 0]
        views = [*large, *(batch["local"][b, :, 0] if "local" in batch else [])]
        teacher = [logits(method.teacher, view).detach() for view in large]
        student = [logits(method.student, view) for view in views]
        return mean(
            entropy(teacher[t], method.centre.value, tau, student[s])
            for t in range(len(teacher))
            for s in range(len(student))
            if s != t
        )

    return mean(one(b) for b in range(len(batch["global"])))


@pytest.mark.parametrize("local_crops", [0, 3])
def test_loss_and_gradients_equal_the_equations(local_crops: int) -> None:
    method = small_method("dino", local_crops=local_crops)
    batch = small_batch(method, size=2)
    output = method(batch, now())
    assert output.terms["dino"] == output.loss
    assert_same_gradients(method, output.loss, naive(method, batch, 0.04))


def test_temperature_warms_up_by_epoch() -> None:
    method = small_method(
        "dino", warmup_teacher_temp=0.02, teacher_temp=0.06, warmup_teacher_temp_epochs=3, train_gain=False
    )
    batch = small_batch(method, size=2)
    for epoch, tau in enumerate([0.02, 0.04, 0.06]):
        torch.testing.assert_close(method(batch, now(epoch=epoch)).loss, naive(method, batch, tau))
    with pytest.raises(StageError, match="'warmup_teacher_temp_epochs' = 3 is longer than the run of 2 epochs"):
        small_method("dino", epochs=2, warmup_teacher_temp_epochs=3)


def test_invariants() -> None:
    assert_accumulates("dino")
    assert_follows("dino")
    assert_drops_paths_in_student_only("dino")
    assert_freezes_prototypes("dino", n_heads=1)


def test_centre_takes_the_teachers_raw_logits() -> None:
    method = small_method("dino")
    batch = small_batch(method)
    teacher = method.teacher
    raw = torch.stack([teacher["head"](teacher["backbone"](batch["global"][:, v, 0])) for v in range(2)])
    expected = 0.9 * method.centre.value + 0.1 * raw.mean((0, 1))
    method(batch, now())
    method.after_step(now())
    torch.testing.assert_close(method.centre.value, expected)


def test_teacher_starts_as_the_student() -> None:
    args = DINO.Args(out_dim=8, hidden_dim=8, bottleneck_dim=4)
    method = DINO(args, partial(build_vit, "vit_tiny_patch16_224", NETWORK), 1)
    student = dict(method.student.named_parameters())
    assert student.keys() == dict(method.teacher.named_parameters()).keys()
    for name, p in method.teacher.named_parameters():
        assert torch.equal(p, student[name]) and p.data_ptr() != student[name].data_ptr()
    assert method.encoder is method.teacher["backbone"]


def test_monitors() -> None:
    method = small_method("dino")
    output = method(small_batch(method), now())
    probs, features = output.monitors["teacher_probs"], output.monitors["features"]
    assert probs.shape == (8, 20) and features.shape == (8, 24)
    torch.testing.assert_close(probs.sum(-1), torch.ones(8, dtype=torch.float64))
    assert not any(x.requires_grad for x in (*output.terms.values(), *output.monitors.values()))


def test_published_views() -> None:
    large, small = DINO.views(DINO.Args(), 16).crops
    assert (large.size_px, large.scale, len(large.photometric)) == (224, (0.4, 1.0), 2)
    assert (small.size_px, small.scale, len(small.photometric)) == (96, (0.05, 0.4), 8)
    assert [p.blur_p for p in large.photometric] == [1.0, 0.1]
    assert [p.solarise_p for p in large.photometric] == [0.0, 0.2]
    assert {(p.blur_p, p.solarise_p) for p in small.photometric} == {(0.5, 0.0)}


@pytest.mark.parametrize(
    "wrong", [{"global_scale": (0.9, 0.4)}, {"local_scale": (0, 1)}, {"student_temp": 0}, {"out_dims": 5}]
)
def test_wrong_arguments(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DINO.Args(**wrong)


def test_views_must_be_whole_patches() -> None:
    with pytest.raises(StageError, match=r"'local_size_px' = 20 is no multiple .* 8-pixel patches.*take 16"):
        small_method("dino", local_size_px=20)
    small_method("dino", local_size_px=20, local_crops=0)
