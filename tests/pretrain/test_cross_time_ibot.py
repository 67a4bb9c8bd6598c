"""Cross-time iBOT against its equations, switch by switch, and what the teacher must never see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small import (
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
from test_ibot import SEPARATE, SETTINGS, naive, naive_patches, tokens_of
from torch import Tensor

from components.common.errors import StageError
from components.pretrain.methods.cross_time_ibot import CrossTimeIBOT
from components.pretrain.plan import BlockMasks


def neighbour_masks(method: Any, batch: dict[str, Tensor], b: int) -> list[Tensor | None]:
    kinds = {"none": [None, None], "fresh": batch.get("neighbour_mask"), "shared": batch["global_mask"]}
    masks: Any = kinds[method.args.neighbour_mask]
    return [None, None] if method.args.neighbour_mask == "none" else list(masks[b, :, 0])


def naive_time(method: Any, batch: dict[str, Tensor], b: int) -> Any:
    """The two terms across time of one sample, with their weights."""
    args, total = method.args, 0.0
    anchors, neighbours = batch["global"][b, :, 0], batch["neighbour"][b, :, 0]
    masks = neighbour_masks(method, batch, b)
    if args.lambda_time:
        teacher = [method.teacher["head"](tokens_of(method.teacher, view)[0]).detach() for view in anchors]
        student = [
            method.student["head"](tokens_of(method.student, view, mask)[0])
            for view, mask in zip(neighbours, masks, strict=True)
        ]
        pairs = [(q, v) for q in range(2) for v in range(2) if q == v or args.matching == "all2all"]
        total = total + args.lambda_time * mean(
            entropy(teacher[q], method.centre.value, 0.07, student[v]) for q, v in pairs
        )
    if args.lambda_timepatch:
        triples = zip(anchors, neighbours, masks, strict=True)
        patches = mean(
            naive_patches(method, anchor, view, mask, 0.07) for anchor, view, mask in triples if mask is not None
        )
        total = total + args.lambda_timepatch * patches
    return total


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"matching": "one2one", "neighbour_mask": "none"},
        {"neighbour_mask": "shared", "lambda_timepatch": 0.7, "lambda_time": 0.3},
        {"lambda_time": 0, "lambda_timepatch": 1.0, "local_crops": 0},  # the released code would drop the term
        SEPARATE | {"matching": "one2one", "lambda_timepatch": 1.0},
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_equations(switch: dict[str, Any]) -> None:
    method = small_method("cross_time_ibot", **SETTINGS | switch)
    with torch.no_grad():
        method.student["mask_token"].value.normal_()
    batch = small_batch(method, size=2)
    for name in batch.keys() & {"neighbour_mask"}:
        batch[name][1] = batch[name][1].flip(0)
    output = method(batch, now())
    expected = naive(method, batch) + mean(naive_time(method, batch, b) for b in range(2))
    assert set(output.terms) == {"cls", "patch"} | {
        name for name in ("time", "timepatch") if getattr(method.args, f"lambda_{name}")
    }
    assert_same_gradients(method, output.loss, expected)


@pytest.mark.parametrize(
    "switch", [{}, {"neighbour_mask": "shared", "lambda_timepatch": 1.0, "matching": "one2one"}], ids=str
)
def test_invariants(switch: dict[str, Any]) -> None:
    settings = SETTINGS | switch
    assert_accumulates("cross_time_ibot", **settings)
    assert_follows("cross_time_ibot", **settings)
    assert_drops_paths_in_student_only("cross_time_ibot", **settings)
    assert_freezes_prototypes("cross_time_ibot", n_heads=1, **settings)


def test_one2one_of_equal_frames_is_a_class_term() -> None:
    """A neighbour that is the anchor itself: each view against itself, as L_cls would have it did it not skip it."""
    method: Any = small_method("cross_time_ibot", **SETTINGS | {"matching": "one2one", "neighbour_mask": "shared"})
    batch = small_batch(method, size=2)
    batch["neighbour"] = batch["global"].clone()
    total: Any = 0.0
    for b in range(2):
        for view, mask in zip(batch["global"][b, :, 0], batch["global_mask"][b, :, 0], strict=True):
            teacher = method.teacher["head"](tokens_of(method.teacher, view)[0])
            student = method.student["head"](tokens_of(method.student, view, mask)[0])
            total = total + entropy(teacher, method.centre.value, 0.07, student) / 4
    torch.testing.assert_close(method(batch, now()).terms["time"], total.detach(), rtol=1e-9, atol=1e-9)


def test_teacher_and_centres_see_anchors_only() -> None:
    one, other = (small_method("cross_time_ibot", **SETTINGS | {"lambda_timepatch": 1.0}) for _ in range(2))
    batch = small_batch(one)
    outputs = [one(batch, now()), other(batch | {"neighbour": torch.randn_like(batch["neighbour"])}, now())]
    assert outputs[0].loss != outputs[1].loss
    for name in ("teacher_probs", "features"):
        assert torch.equal(outputs[0].monitors[name], outputs[1].monitors[name])
    for method in (one, other):
        method.after_step(now())
    for (name, a), b in zip(one.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_without_time_it_is_ibot() -> None:
    method = small_method("cross_time_ibot", **SETTINGS | {"lambda_time": 0})
    ibot = small_method("ibot", **SETTINGS)
    ibot.load_state_dict(method.state_dict())
    batch = small_batch(method)
    assert "neighbour" not in batch
    torch.testing.assert_close(method(batch, now()).loss, ibot(batch, now()).loss, rtol=1e-12, atol=1e-12)


def test_views() -> None:
    plan = CrossTimeIBOT.views(CrossTimeIBOT.Args(), 16)
    assert (plan.draw, plan.n_frames, plan.both_ways) == ("pair", 2, True)  # every frame is an anchor
    anchor, neighbour, small = plan.crops
    assert (anchor.frames, neighbour.frames, small.frames) == ((0,), (1,), (0,))
    assert anchor.mask == neighbour.mask == BlockMasks((0.0, 0.3), (0.0, 0.2)) and small.mask is None
    assert anchor.photometric == neighbour.photometric and len(small.photometric) == 10
    for kind in ("none", "shared"):
        args = CrossTimeIBOT.Args(neighbour_mask=kind)
        assert CrossTimeIBOT.views(args, 16).crops[1].mask is None
    assert CrossTimeIBOT.views(CrossTimeIBOT.Args(lambda_time=0), 16).names == ("global", "local")


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="lambda_timepatch compares the neighbour's hidden patches"):
        CrossTimeIBOT.Args(lambda_timepatch=1.0, neighbour_mask="none")
    with pytest.raises(StageError, match="'global_size_px' = 225 is no multiple of the encoder's 16-pixel patches"):
        CrossTimeIBOT.views(CrossTimeIBOT.Args(global_size_px=225), 16)
