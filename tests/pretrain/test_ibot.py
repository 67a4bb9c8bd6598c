"""iBOT against its equations written as loops, in every setting of its heads, and the invariants of hidden patches."""

from __future__ import annotations

from functools import partial
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
from components.common.vit import build_vit
from components.pretrain.blocks.masked_distillation import Hidden
from components.pretrain.blocks.pictures import label_colour
from components.pretrain.methods.ibot import IBOT
from components.pretrain.plan import BlockMasks

SETTINGS: dict[str, Any] = {"warmup_teacher_temp_epochs": 0, "warmup_patch_temp_epochs": 0, "local_crops": 2}
SEPARATE = {"shared_head": False, "shared_head_teacher": False}
SEMI = {"shared_head": False, "shared_head_teacher": True}


def tokens_of(network: nn.ModuleDict, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens (1 + P, D) of one image (3, S, S); hidden patches exchanged one by one, then timm's own steps."""
    backbone: Any = network["backbone"]
    token: Any = network["mask_token"] if mask is not None else None
    x = backbone.patch_embed(image[None])
    if mask is not None:
        rows = [
            torch.stack([token.value[0] if mask[i, j] else x[0, i, j] for j in range(x.shape[2])])
            for i in range(x.shape[1])
        ]
        x = torch.stack(rows)[None]
    return backbone.norm(backbone.blocks(backbone._pos_embed(x)))[0]


def patch_logits(network: nn.ModuleDict, token: Tensor) -> Tensor:
    """Logits of one patch token: through the common layers, then its own prototypes if there are any."""
    parts: dict[str, Any] = dict(network.items())
    z = parts["head"].mlp(token)
    z = z / z.pow(2).sum().sqrt()
    layer = parts.get("patch_last_layer", parts["head"].last_layer)
    return (z * layer.gain * layer.direction / layer.direction.pow(2).sum(-1, keepdim=True).sqrt()).sum(-1)


def naive_cls(method: Any, views: Tensor, masks: Tensor, local: Tensor, tau: float) -> Tensor:
    """L_cls of one sample: every teacher view with every other student view."""
    head = method.student["head"]
    teacher = [method.teacher["head"](tokens_of(method.teacher, view)[0]).detach() for view in views]
    student = [head(tokens_of(method.student, view, mask)[0]) for view, mask in zip(views, masks, strict=True)]
    student += [head(tokens_of(method.student, view)[0]) for view in local]
    pairs = [(q, v) for q in range(len(teacher)) for v in range(len(student)) if q != v]
    return mean(entropy(teacher[q], method.centre.value, tau, student[v]) for q, v in pairs)


def naive_patches(method: Any, target: Tensor, view: Tensor, mask: Tensor, tau: float) -> Any:
    """L_mim of one view: teacher on `target`, student on `view`, where `mask` hides; 0 where nothing is hidden."""
    hidden = [i for i, m in enumerate(mask.flatten()) if m]
    if not hidden:
        return 0.0
    teacher, student = tokens_of(method.teacher, target)[1:], tokens_of(method.student, view, mask)[1:]
    return mean(
        entropy(
            patch_logits(method.teacher, teacher[i]).detach(),
            method.patch_centre.value,
            tau,
            patch_logits(method.student, student[i]),
        )
        for i in hidden
    )


def naive(method: Any, batch: dict[str, Tensor], tau: float = 0.07) -> Tensor:
    total: Any = 0.0
    for b in range(len(batch["global"])):
        views, masks = batch["global"][b, :, 0], batch["global_mask"][b, :, 0]
        local = batch["local"][b, :, 0] if "local" in batch else torch.zeros(0)
        cls = naive_cls(method, views, masks, local, tau)
        patch = mean(naive_patches(method, v, v, m, tau) for v, m in zip(views, masks, strict=True))
        total = total + method.args.lambda_cls * cls + method.args.lambda_patch * patch
    return total / len(batch["global"])


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"local_crops": 0, "lambda_cls": 0.5, "lambda_patch": 2.0},
        SEMI,
        SEPARATE,
        SEPARATE | {"patch_out_dim": 12},
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_equations(switch: dict[str, Any]) -> None:
    method = small_method("ibot", **SETTINGS | switch)
    with torch.no_grad():
        method.student["mask_token"].value.normal_()
    batch = small_batch(method, size=2)
    batch["global_mask"][1] = batch["global_mask"][1].flip(0)  # the other view of the second sample hides patches
    output = method(batch, now())
    assert set(output.terms) == {"cls", "patch"} and output.terms["patch"] > 0
    assert_same_gradients(method, output.loss, naive(method, batch))


def test_registers_are_no_patches() -> None:
    method = small_method("ibot", network={"reg_tokens": 3}, **SETTINGS)
    batch = small_batch(method, size=1)
    plain = small_method("ibot", **SETTINGS)
    assert method(batch, now()).terms.keys() == plain(batch, now()).terms.keys()
    seen = []
    method.teacher["head"].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    method(batch, now())
    assert seen == [(2, 1, 24), (2, 1, 16, 24)]


@pytest.mark.parametrize("switch", [{}, SEMI, SEPARATE], ids=str)
def test_invariants(switch: dict[str, Any]) -> None:
    settings = SETTINGS | switch
    assert_accumulates("ibot", **settings)
    assert_follows("ibot", **settings)
    assert_drops_paths_in_student_only("ibot", **settings)
    assert_freezes_prototypes("ibot", n_heads=2 if switch else 1, **settings)


def test_twenty_two_class_terms() -> None:
    method = small_method("ibot", **SETTINGS | {"local_crops": 10})
    batch, counted = small_batch(method, size=1), []
    method.student["head"].register_forward_hook(lambda module, inputs, logits: counted.append(len(logits)))
    method(batch, now())
    assert counted == [12]  # 12 student views against 2 teacher views, less the 2 pairs of one view: 22 terms


def test_nothing_hidden_leaves_dino() -> None:
    method, dino = small_method("ibot", **SETTINGS), small_method("dino", train_gain=True, local_crops=2)
    dino.load_state_dict(method.state_dict(), strict=False)
    batch = small_batch(method)
    batch["global_mask"][:] = False
    dino.args = dino.args.model_copy(update={"teacher_temp": 0.07})
    output = method(batch, now())
    assert output.terms["patch"] == 0
    torch.testing.assert_close(output.loss, dino(batch, now()).loss, rtol=1e-12, atol=1e-12)
    output.loss.backward()  # with nothing to predict every parameter still has a gradient, as data parallelism needs
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)


@pytest.mark.parametrize("switch", [{}, SEMI, SEPARATE], ids=str)
def test_patch_centre_is_the_mean_over_all_patches(switch: dict[str, Any]) -> None:
    method: Any = small_method("ibot", **SETTINGS | switch, patch_centre_momentum=0.8)
    batch, old = small_batch(method), method.patch_centre.value.clone()
    views = batch["global"][:, :, 0].flatten(0, 1)
    with torch.no_grad():
        rows = [patch_logits(method.teacher, token) for view in views for token in tokens_of(method.teacher, view)[1:]]
    assert len(rows) == 4 * 2 * 16  # hidden or not
    method(batch, now())
    method.after_step(now())
    torch.testing.assert_close(method.patch_centre.value, 0.8 * old + 0.2 * mean(rows), rtol=1e-10, atol=1e-12)


def test_first_centre_is_a_tenth_of_the_mean() -> None:
    method: Any = small_method("ibot", **SETTINGS)
    method.centre.value.zero_()
    batch = small_batch(method)
    with torch.no_grad():
        views = batch["global"][:, :, 0].flatten(0, 1)
        expected = 0.1 * method.teacher["head"](method.teacher["backbone"](views)).mean(0)
    method(batch, now())
    method.after_step(now(momentum=1.0))
    torch.testing.assert_close(method.centre.value, expected, rtol=1e-10, atol=1e-12)


def test_semi_shared_teacher_follows_the_class_prototypes() -> None:
    method: Any = small_method("ibot", **SETTINGS | SEMI)
    assert "patch_last_layer" in method.student and "patch_last_layer" not in method.teacher
    for step in range(300):
        method.after_step(now(step, momentum=0.9))
    twin = method.teacher["head"].last_layer.direction
    torch.testing.assert_close(twin, method.student["head"].last_layer.direction)


def test_compat_starts_the_semi_shared_teacher_from_the_patch_prototypes() -> None:
    for compat in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            args: Any = IBOT.Args(out_dim=20, hidden_dim=16, bottleneck_dim=8, compat=compat, **SETTINGS | SEMI)
            network = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
            method: Any = IBOT(args.model_copy(update={"global_size_px": 32, "local_size_px": 16}),
                               partial(build_vit, "vit_tiny_patch16_224", network), 3)  # fmt: skip
        start = method.student["patch_last_layer" if compat else "head"]
        expected = start if compat else start.last_layer
        assert torch.equal(method.teacher["head"].last_layer.direction, expected.direction)


def test_patch_temperature_waits_for_the_prediction() -> None:
    late = {"warmup_patch_temp_epochs": 3, "pred_start_epoch": 4}
    method: Any = small_method("ibot", epochs=7, **SETTINGS | late)
    batch = small_batch(method, size=2)
    for epoch, tau in ((0, 0.04), (4, 0.04), (5, 0.055), (6, 0.07), (9, 0.07)):
        constant: Any = small_method("ibot", **SETTINGS | {"patch_temp": tau})
        expected = constant(batch, now()).terms["patch"]
        torch.testing.assert_close(method(batch, now(epoch=epoch)).terms["patch"], expected, msg=str(epoch))
    with pytest.raises(StageError, match="'pred_start_epoch \\+ warmup_patch_temp_epochs' = 7 is longer than the run"):
        small_method("ibot", epochs=6, **SETTINGS | late)
    with pytest.raises(StageError, match="'warmup_teacher_temp_epochs' = 30 is longer than the run of 3 epochs"):
        small_method("ibot")


def test_pictures_show_the_prototype_of_each_patch() -> None:
    method: Any = small_method("ibot", **SETTINGS).float()
    batch = {name: value.float() if value.is_floating_point() else value for name, value in small_batch(method).items()}
    centre = method.patch_centre.value.clone()
    shown = method.pictures(batch, now())["patch_prototypes"]
    assert len(shown) == 4 and all(picture.shape == (32, 64, 3) for picture in shown)
    with torch.no_grad():
        patches = tokens_of(method.teacher, batch["global"][0, 0, 0])[1:]
        winners = [int((patch_logits(method.teacher, patch) - centre).argmax()) for patch in patches]
    plain, coloured = shown[0][:, :32].astype(int), shown[0][:, 32:].astype(int)
    for cell, winner in enumerate(winners):
        rows, columns = slice(cell // 4 * 8, cell // 4 * 8 + 8), slice(cell % 4 * 8, cell % 4 * 8 + 8)
        colour = [round(255 * value) for value in label_colour(winner)]
        assert abs(coloured[rows, columns] - (plain[rows, columns] + colour) / 2).max() <= 2
    assert torch.equal(method.patch_centre.value, centre)


def test_hidden_patches_of_several_views() -> None:
    mask = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 0] = mask[1, 2, 1, 1] = True
    hidden = Hidden.of(mask)
    assert hidden.rows.tolist() == [1, 2, 23]
    torch.testing.assert_close(hidden.weights, torch.tensor([1 / 12, 1 / 12, 1 / 6], dtype=torch.float64))
    patches = torch.arange(24.0).view(2, 3, 4, 1)
    assert hidden.take(patches).flatten().tolist() == [1, 2, 23]


def test_views() -> None:
    plan = IBOT.views(IBOT.Args(), 16)
    large, small = plan.crops
    assert (plan.draw, plan.n_frames, plan.both_ways) == ("frame", 1, False)
    assert (large.size_px, large.scale, len(large.photometric)) == (224, (0.25, 1.0), 2)
    assert large.mask == BlockMasks((0.0, 0.3), (0.0, 0.2), "block", 0) and small.mask is None
    assert (small.size_px, small.scale, len(small.photometric)) == (96, (0.05, 0.25), 10)
    assert len(IBOT.views(IBOT.Args(local_crops=0), 16).crops) == 1
    paper = IBOT.views(IBOT.Args(mask_per_image=True, mask_shape="random", pred_start_epoch=50), 16).crops[0].mask
    assert paper == BlockMasks(shape="random", start_epoch=50, per_image=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"shared_head_teacher": False}, "shared_head needs shared_head_teacher"),
        ({"patch_out_dim": 12}, "a shared head has one number of prototypes"),
        ({**SEMI, "patch_out_dim": 12}, "a shared head has one number of prototypes"),
        ({"mask_ratios": (0.3,)}, "as many ratios as variations"),
        ({"mask_ratios": (0.1,), "mask_variations": (0.2,)}, "must lie in"),
        ({"mask_ratios": (), "mask_variations": ()}, "mask_ratios"),
    ],
)
def test_settings_that_do_not_fit_are_refused(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        IBOT.Args(**args)
