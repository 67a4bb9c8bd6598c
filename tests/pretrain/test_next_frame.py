"""Next-frame self-distillation against its equations, its switches, and a case that only a predictor can solve."""

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
from torch import Tensor, nn

from components.common.errors import StageError
from components.pretrain.blocks.predictor import TokenPredictor
from components.pretrain.blocks.self_distillation import cross_entropy
from components.pretrain.methods.next_frame import NextFrame

SETTINGS = {"patch_out_dim": 12, "warmup_patch_temp_epochs": 0, "local_crops": 2}


def cls_of(network: nn.ModuleDict, image: Tensor) -> Tensor:
    return network["head"](network["backbone"](image[None]))[0]


def cells_of(network: nn.ModuleDict, head: str, image: Tensor, predict: bool) -> Tensor:
    tokens = network["backbone"].forward_features(image[None])
    patches = network["predictor"](tokens[:, 0], tokens[:, 1:]) if predict else tokens[:, 1:]
    return network[head](patches)[0]


def naive(method: Any, batch: dict[str, Tensor]) -> Tensor:
    """Sample by sample, view by view, cell by cell."""
    args = method.args

    def cls_loss(b: int) -> Tensor:
        views, frame = batch["global"][b], int(args.cross_time)
        teacher = [cls_of(method.teacher, view[frame]).detach() for view in views]
        student = [cls_of(method.student, view[0]) for view in views]
        student += [cls_of(method.student, view[0]) for view in batch.get("local", torch.zeros(4, 0))[b]]
        return mean(
            entropy(teacher[t], method.centre.value, 0.04, student[s])
            for t in range(len(teacher))
            for s in range(len(student))
            if args.cross_time or s != t
        )

    def dense_loss(b: int, view: Tensor) -> Tensor:
        head = "head" if args.shared_head else "patch_head"
        teacher = cells_of(method.teacher, head, view[1], predict=False).detach()
        student = cells_of(method.student, head, view[0], predict=True)
        pairs = zip(teacher, student, strict=True)
        return mean(entropy(t, method.patch_centre.value, args.patch_temp, s) for t, s in pairs)

    samples = range(len(batch["global"]))
    cls = mean(cls_loss(b) for b in samples)
    if not args.dense:
        return cls
    return 0.5 * (mean(dense_loss(b, view) for b in samples for view in batch["global"][b]) + cls)


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"tokens": "patch"},
        {"shared_head": True},
        {"cross_time": True},
        {"cross_time": True, "global_crops": 1, "local_crops": 0},
        {"global_crops": 1},
        {"predictor": "identity"},
        {"dense": False},
        {"same_frame": True},
        {"dense": False, "cross_time": True},
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_equations(switch: dict[str, Any]) -> None:
    method = small_method("next_frame", **SETTINGS | switch)
    batch = small_batch(method, size=1)
    output = method(batch, now())
    assert set(output.terms) == ({"cls", "dense"} if method.args.dense else {"cls"})
    assert_same_gradients(method, output.loss, naive(method, batch))


@pytest.mark.parametrize("switch", [{}, {"shared_head": True, "cross_time": True}, {"dense": False}], ids=str)
def test_invariants(switch: dict[str, Any]) -> None:
    settings = SETTINGS | switch
    assert_accumulates("next_frame", **settings)
    assert_follows("next_frame", **settings)
    assert_drops_paths_in_student_only("next_frame", **settings)
    assert_freezes_prototypes("next_frame", n_heads=1 if switch else 2, **settings)


def test_each_target_has_its_own_temperature() -> None:
    method = small_method("next_frame", **SETTINGS | {"warmup_patch_temp_epochs": 2, "warmup_patch_temp": 0.07})
    constant = small_method("next_frame", **SETTINGS)
    batch = small_batch(method, size=2)
    torch.testing.assert_close(method(batch, now(epoch=0)).loss, constant(batch, now()).loss)
    with pytest.raises(StageError, match="'warmup_patch_temp_epochs' = 30 is longer than the run of 3 epochs"):
        small_method("next_frame", patch_out_dim=12)


def test_predictor() -> None:
    torch.manual_seed(0)
    predictor = TokenPredictor(24, 4, heads=3, depth=2, mlp_ratio=4, tokens="cls+patch").double()
    cls, patches = torch.randn(2, 24).double(), torch.randn(2, 16, 24).double()
    assert predictor(cls, patches).shape == (2, 16, 24)
    assert predictor.pos_embed.shape == (1, 17, 24) and not predictor.pos_embed.any()
    turned = cls.flip(1)  # not a shift or a scale, which LayerNorm would take away
    assert (predictor(cls, patches) - predictor(turned, patches)).abs().max() > 1e-6
    # no positions yet: shuffled cells come out shuffled
    order = torch.randperm(16)
    torch.testing.assert_close(predictor(cls, patches[:, order]), predictor(cls, patches)[:, order])
    assert predictor(cls, torch.randn(2, 36, 24).double()).shape == (2, 36, 24)  # another grid
    without = TokenPredictor(24, 4, heads=3, depth=2, mlp_ratio=4, tokens="patch").double()
    assert torch.equal(without(cls, patches), without(turned, patches))


def test_published_predictor_has_about_five_million_weights() -> None:
    predictor = TokenPredictor(384, 14, heads=6, depth=2, mlp_ratio=4, tokens="cls+patch")
    assert sum(p.numel() for p in predictor.parameters()) == pytest.approx(4.8e6, rel=0.02)


def test_motion_of_one_patch_is_learnt_by_the_predictor_alone() -> None:
    """The next frame is this one moved by one cell: a trained predictor must beat the best that stands still."""
    torch.manual_seed(0)
    width, cells, head = 24, 16, torch.randn(24, 10)

    def loss_of(predictor: nn.Module | None, patches: Tensor) -> Tensor:
        target = torch.roll(patches.unflatten(1, (4, 4)), 1, dims=2).flatten(1, 2)
        predicted = patches if predictor is None else predictor(patches.mean(1), patches)
        return cross_entropy((target @ head).softmax(-1), predicted @ head, 1.0)

    predictor = TokenPredictor(width, 4, heads=3, depth=2, mlp_ratio=2, tokens="cls+patch")
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=3e-3)
    for _ in range(150):
        loss = loss_of(predictor, torch.randn(16, cells, width) * 0.3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = torch.randn(64, cells, width) * 0.3
    floor = cross_entropy((unseen @ head).softmax(-1), unseen @ head, 1.0)  # the targets' own entropy
    still = loss_of(None, unseen) - floor
    assert loss_of(predictor, unseen) - floor < 0.5 * still


def test_both_frames_share_box_and_flip() -> None:
    plan = NextFrame.views(NextFrame.Args(), 16)
    pair, local = plan.crops
    assert (plan.draw, plan.n_frames) == ("pair", 2)
    assert pair.frames == (0, 1) and pair.shared_geometry and not pair.shared_photometric
    assert (pair.size_px, len(pair.photometric)) == (224, 2)
    assert local.frames == (0,) and (local.size_px, len(local.photometric)) == (96, 8)
    assert plan.clip_crop is not None and plan.clip_crop.size_px == 300
    still = NextFrame.views(NextFrame.Args(same_frame=True), 16)
    assert (still.draw, still.n_frames, still.crops[0].frames) == ("frame", 1, (0, 0))
    assert NextFrame.views(NextFrame.Args(shared_photometric=True), 16).crops[0].shared_photometric


def test_one_view_without_another_is_refused() -> None:
    with pytest.raises(ValidationError, match="no other view"):
        NextFrame.Args(global_crops=1, local_crops=0)
    NextFrame.Args(global_crops=1, local_crops=0, cross_time=True)
