"""DoRA against its equations; the tracker itself is in test_tracker.py."""

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
from components.common.vit import tokens_and_attention
from components.pretrain.blocks.tracker import TeacherView, apply_masks, draw_heads, track
from components.pretrain.methods.dora import DoRA, object_weights

SETTINGS = {"n_frames": 3, "n_objects": 2, "local_crops": 2}


def logits(network: nn.ModuleDict, image: Tensor) -> Tensor:
    return network["head"](network["backbone"](image[None]))[0]


def masked_views(method: Any, clip: Tensor) -> Tensor:
    """One clip (T, 3, S, S) as the student sees it, (k, T, 3, S, S), the teacher run frame by frame."""
    found = [tokens_and_attention(method.teacher["backbone"], frame[None]) for frame in clip]
    tokens, attention, queries, keys = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
    heads = draw_heads(3, method.args.n_objects, now().generator)
    view = TeacherView(tokens[:, :, 1:], attention, queries, keys)
    masks = track(view, heads, epsilon=0.05, n_iterations=30, threshold="map")
    return apply_masks(clip[None], masks, (4, 4))[:, 0]


def frame_terms(method: Any, batch: dict[str, Tensor], b: int, first_local: int) -> list[list[Tensor]]:
    """Loss of each object (rows) and frame (columns) of sample b, as in the equations."""
    clip = batch["global"][b, 0]
    masked, crops = masked_views(method, clip), batch["local"][b] if "local" in batch else clip[:0]
    rows = []
    for j in range(method.args.n_objects):
        row = []
        for t, frame in enumerate(clip):
            teacher = logits(method.teacher, frame).detach()

            def against(image: Tensor, teacher: Tensor = teacher) -> Tensor:
                return entropy(teacher, method.centre.value, 0.04, logits(method.student, image))

            term = against(masked[j, t])
            if len(crops):
                term = 0.5 * (term + mean(against(crop[t]) for crop in crops[first_local:]))
            row.append(term)
        rows.append(row)
    return rows


@pytest.mark.parametrize("local_crops", [0, 2])
def test_loss_and_gradients_equal_the_equations(local_crops: int) -> None:
    method = small_method("dora", **SETTINGS | {"local_crops": local_crops})
    batch = small_batch(method, size=2)
    output = method(batch, now())
    samples = [frame_terms(method, batch, b, 0) for b in range(2)]
    expected = mean(term for rows in samples for row in rows for term in row)
    if local_crops:
        both = 0.5 * (output.terms["object"] + output.terms["local"])
        torch.testing.assert_close(both, output.loss.detach())
    assert_same_gradients(method, output.loss, expected)


def test_compat_reproduces_the_released_sums() -> None:
    """Literally: local 0 left out, and a sum over frames that is divided but never cleared between objects."""
    method = small_method("dora", **SETTINGS | {"compat": True})
    batch = small_batch(method, size=1)
    rows = frame_terms(method, batch, 0, first_local=1)
    running: Any = 0.0
    total: Any = 0.0
    for row in rows:
        for term in row:
            running = running + term
        running = running / len(row)
        total = total + running
    assert_same_gradients(method, method(batch, now()).loss, total / len(rows))


def test_compat_weights() -> None:
    assert object_weights(3, 8, compat=True).tolist() == [1.140625, 1.125, 1.0]
    assert object_weights(3, 8, compat=True).mean() == pytest.approx(1.089, abs=5e-4)
    assert object_weights(3, 8, compat=False).tolist() == [1, 1, 1]


def test_invariants() -> None:
    assert_accumulates("dora", **SETTINGS)
    assert_follows("dora", **SETTINGS)
    assert_drops_paths_in_student_only("dora", **SETTINGS)
    assert_freezes_prototypes("dora", n_heads=1, **SETTINGS)


def test_the_released_threshold_ties_the_clips_of_a_batch() -> None:
    method = small_method("dora", **SETTINGS | {"threshold": "batch"})
    batch = small_batch(method)
    whole = method(batch, now()).terms["object"]
    alone = mean(method({k: v[b : b + 1] for k, v in batch.items()}, now()).terms["object"] for b in range(4))
    assert not torch.isclose(whole, alone, rtol=1e-9)


def test_centre_and_monitors_cover_all_frames() -> None:
    method = small_method("dora", **SETTINGS)
    batch = small_batch(method)
    raw = torch.stack([logits(method.teacher, frame) for clip in batch["global"][:, 0] for frame in clip])
    expected = 0.9 * method.centre.value + 0.1 * raw.mean(0)
    output = method(batch, now())
    method.after_step(now())
    torch.testing.assert_close(method.centre.value, expected)
    assert output.monitors["teacher_probs"].shape == (12, 20) and output.monitors["features"].shape == (12, 24)


def test_pictures_show_what_the_student_sees() -> None:
    method = small_method("dora", **SETTINGS).float()
    batch = {name: views.float() for name, views in small_batch(method).items()}
    frames = method.pictures(batch, now())["tracked_objects"]
    assert len(frames) == 3
    grey = (torch.tensor([0.485, 0.456, 0.406]) * 255).round().to(torch.uint8).tolist()
    for picture in frames:
        assert picture.shape == (32, 96, 3) and picture.dtype.name == "uint8"
        whole = picture[:, :32]
        for j in (1, 2):
            shown = picture[:, 32 * j : 32 * j + 32]
            kept = (shown == whole).all(-1)
            assert kept.any() and not kept.all()
            assert (shown[~kept] == grey).all()
    assert not method.centre.state_dict()["value"].isnan().any()
    assert method.centre._sum is None  # a picture is no training step


def test_published_views() -> None:
    plan = DoRA.views(DoRA.Args(), 16)
    whole, local = plan.crops
    assert (plan.draw, plan.n_frames) == ("clip", 8)
    assert (whole.size_px, whole.scale, whole.frames) == (224, (0.4, 1.0), tuple(range(8)))
    assert whole.shared_geometry and not whole.shared_photometric and whole.flip_p == 0.5
    assert [(p.blur_p, p.solarise_p) for p in whole.photometric] == [(0.1, 0.0)]
    assert (local.size_px, local.scale, len(local.photometric), local.flip_p) == (112, (0.05, 0.4), 6, 0.0)
    assert not local.shared_geometry
    assert plan.clip_crop is not None and (plan.clip_crop.size_px, plan.clip_crop.scale) == (300, (0.2, 1.0))


def test_refusals() -> None:
    with pytest.raises(StageError, match=r"n_objects = 4 needs as many heads \(3\)"):
        small_method("dora", **SETTINGS | {"n_objects": 4})
    with pytest.raises(StageError, match="two blocks or more"):
        small_method("dora", network={"depth": 1}, **SETTINGS)
    with pytest.raises(ValidationError, match="leaves none"):
        DoRA.Args(compat=True, local_crops=1)
