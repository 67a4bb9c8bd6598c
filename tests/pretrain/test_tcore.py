"""T-CoRe against its equations; its blocks are in test_koleo.py and test_patch_matching.py."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    assert_accumulates,
    assert_drops_paths_in_student_only,
    assert_follows,
    assert_same_gradients,
    entropy,
    mean,
    now,
    small_batch,
    small_method,
)
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.vit import build_vit, exported_args, uniform_drop_path
from components.pretrain.blocks.masked_vit import masked_tokens
from components.pretrain.methods.tcore import TCoRe, masked_first, patch_weights
from components.pretrain.plan import Sandwich, StratifiedMasks

REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}
SETTINGS: dict[str, Any] = {
    "koleo_group": 2,
    "matching_heads": 3,
    "warmup_teacher_temp_epochs": 0,
    "local_crops": 2,
    "network": REGISTERS,
}


def small(**args: Any) -> Any:
    return small_method("tcore", **SETTINGS | args)


def naive_terms(method: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every term from sums over samples, views, patches and prototypes; networks run on one image at a time."""
    student, teacher, head = method.student, method.teacher, method.student["head"]
    n_samples, n_views = batch["global"].shape[:2]
    classes: list[list[Tensor]] = [[] for _ in range(n_views)]  # student tokens, by view and sample
    targets: list[list[Tensor]] = [[] for _ in range(n_views)]  # teacher logits
    past: list[Tensor] = []  # by crop
    future: list[Tensor] = []
    squares: list[Tensor] = []  # by masked patch
    for i, j in product(range(n_samples), range(n_views)):
        image, grid = batch["global"][i, j], batch["global_mask"][i, j]
        found = teacher["backbone"].forward_features(image)[0].detach()
        targets[j].append(teacher["head"](found[0]).detach())
        cls, patches = masked_tokens(student["backbone"], image, grid, student["mask_token"].value)
        classes[j].append(cls[0])
        with torch.no_grad():
            others = [student["backbone"].forward_features(frame[None])[:, 5:] for frame in batch["around"][i, j]]
        filled = [head(student["matching"](patches, other)[0]) for other in others]
        hidden = grid.flatten().nonzero().flatten().tolist()
        for losses, logits in zip((past, future), filled, strict=True):
            goal = [teacher["head"](found[5 + p]).detach() for p in hidden]
            rows = [entropy(g, method.patch_centre.value, 0.07, logits[p]) for g, p in zip(goal, hidden, strict=True)]
            losses.append(mean(rows) if rows else image.new_zeros(()))
        squares += [mean((a - b) ** 2 for a, b in zip(filled[0][p], filled[1][p], strict=True)) for p in hidden]
    crops = [[student["backbone"](sample[k])[0] for sample in batch["local"]] for k in range(batch["local"].shape[1])]
    pairs = [
        mean(entropy(t, method.centre.value, 0.07, head(z)) for t, z in zip(targets[j], view, strict=True))
        for j in range(n_views)
        for view in (classes[1 - j], *crops)
    ]
    return {
        "dino": mean(pairs),
        "koleo": sum(naive_koleo(view) for view in classes),
        "past": mean(past),
        "future": mean(future),
        "agree": mean(squares),
    }


def naive_koleo(view: list[Tensor]) -> Any:
    """Groups of two: the neighbour is the only other one."""
    unit = [row / row.square().sum().sqrt() for row in view]
    pairs = [(unit[i], unit[i + 1 if i % 2 == 0 else i - 1]) for i in range(len(unit))]
    return -mean(torch.log((a - b + 1e-8).square().sum().sqrt() + 1e-8) for a, b in pairs)


def test_loss_and_gradients_equal_the_equations() -> None:
    method = small()
    batch = small_batch(method)
    batch["global_mask"][1] = False  # a sample whose views are both whole
    batch["global_mask"][2, 1, 0, 0, 1:3] = True  # and one whose views are both masked
    output, terms = method(batch, now()), naive_terms(method, batch)
    for name, term in terms.items():
        torch.testing.assert_close(output.terms[name], term.detach(), rtol=1e-9, atol=1e-9)
    weights = {"dino": 1.0, "koleo": 0.1, "past": 0.8, "future": 0.8, "agree": 20.0}
    expected: Any = sum(weights[name] * term for name, term in terms.items())
    assert_same_gradients(method, output.loss, expected)


def test_invariants() -> None:
    assert_accumulates("tcore", **SETTINGS)
    assert_follows("tcore", **SETTINGS)
    assert_drops_paths_in_student_only("tcore", **SETTINGS)


def test_uniform_targets_cost_the_logarithm_of_their_number() -> None:
    """With zero logits everywhere L_DINO is ln K, and L_pt half of it where half of the crops are masked."""
    method = small(out_dim=64)
    for network in (method.student, method.teacher):
        nn.init.zeros_(network["head"].last_layer.gain)
    method.centre.value.zero_()
    method.patch_centre.value.zero_()
    terms = method(small_batch(method), now()).terms
    assert terms["dino"].item() == pytest.approx(math.log(64))
    assert terms["past"].item() == pytest.approx(math.log(64) / 2)
    assert terms["future"].item() == pytest.approx(math.log(64) / 2)


def test_equal_past_and_future_agree() -> None:
    method = small()
    batch = small_batch(method)
    terms = method(batch, now()).terms
    assert terms["agree"] > 1e-6 and not torch.isclose(terms["past"], terms["future"])
    batch["around"][:, :, 1] = batch["around"][:, :, 0]
    same = method(batch, now()).terms
    assert same["agree"].item() == 0 and torch.equal(same["past"], same["future"])


def test_past_and_future_get_no_gradient_and_whole_crops_do_not_look_at_them() -> None:
    method = small()
    batch = small_batch(method)  # view 1 is whole
    batch["around"].requires_grad_()
    method(batch, now()).loss.backward()
    assert batch["around"].grad is None
    with torch.no_grad():
        loss = method(batch, now()).loss
        batch["around"][:, 1] += 1
        assert torch.equal(method(batch, now()).loss, loss)
        batch["around"][:, 0] += 1
        assert not torch.equal(method(batch, now()).loss, loss)


def test_a_batch_without_masks_is_dino_with_koleo() -> None:
    method = small()
    batch = small_batch(method)
    batch["global_mask"][:] = False
    output = method(batch, now())
    assert output.loss.item() == pytest.approx((output.terms["dino"] + 0.1 * output.terms["koleo"]).item())
    output.loss.backward()
    assert all(p.grad is not None for p in method.student.parameters())
    centre = method.patch_centre.value.clone()
    method.after_step(now())
    assert torch.equal(method.patch_centre.value, centre)


def test_centres_move_after_the_step() -> None:
    """One over class tokens, one over the masked patches; the step itself used the old ones (as the release does)."""
    method = small()
    batch = small_batch(method)
    masks = batch["global_mask"][:, :, 0].flatten(2)
    teacher: Any = method.teacher
    tokens = teacher["backbone"].forward_features(batch["global"].flatten(0, 2))
    expected = [teacher["head"](rows).mean(0) for rows in (tokens[:, 0], tokens[:, 5:][masks.flatten(0, 1)])]
    before = [centre.value.clone() for centre in (method.centre, method.patch_centre)]
    method(batch, now())
    assert torch.equal(method.centre.value, before[0]) and torch.equal(method.patch_centre.value, before[1])
    method.after_step(now())
    torch.testing.assert_close(method.centre.value, 0.9 * before[0] + 0.1 * expected[0])
    torch.testing.assert_close(method.patch_centre.value, 0.9 * before[1] + 0.1 * expected[1])


@pytest.mark.parametrize("aux", [True, False])
def test_paths_drop_in_past_and_future_if_asked_for(aux: bool) -> None:
    method = small(drop_path=0.5, aux_drop_path=aux).train()
    images = small_batch(method)["around"]
    seen = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        seen.append(method._seen(images))
    assert torch.equal(*seen) is not aux
    assert method.student["backbone"].training
    dropped = [float(b.drop_path1.drop_prob) for b in method.student["backbone"].blocks]
    assert dropped == [0.5, 0.5]
    method.eval()
    torch.testing.assert_close(method._seen(images), method._seen(images), rtol=0, atol=0)


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masked_crops_come_first_in_order_and_in_few_numbers(masked: list[bool]) -> None:
    hidden = torch.zeros(len(masked), 3, dtype=torch.bool)
    hidden[:, 1] = torch.tensor(masked)
    chosen = masked_first(hidden).tolist()
    wanted = [i for i, m in enumerate(masked) if m]
    assert chosen[: len(wanted)] == wanted and len(set(chosen)) == len(chosen) > 0
    unit = max(len(masked) // 16, 1)
    assert len(chosen) - len(wanted) <= unit and (len(chosen) % unit == 0 or len(chosen) == len(masked))


def test_weights_of_patches() -> None:
    hidden = torch.zeros(2, 3, 8, dtype=torch.bool)
    hidden[0, 0, :4] = hidden[1, 2, 5] = True
    weights = patch_weights(hidden)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.25, 0.25, 0.25, 1.0], dtype=torch.float64) / 6)
    whole = torch.rand(2, 50, 196, generator=torch.Generator().manual_seed(0)) < 0.3
    whole[:, ::2] = False
    assert patch_weights(whole).sum().item() == pytest.approx(0.5)  # half of the crops; B in the release's units


def test_learning_rates_of_the_table() -> None:
    method = small(network=REGISTERS | {"depth": 12})
    scales = {name: method.lr_scale(name) for name, _ in method.student.named_parameters()}
    expected = {
        "backbone.cls_token": 0.9**13,
        "backbone.reg_token": 0.9**13,
        "backbone.pos_embed": 0.9**13,
        "mask_token.value": 0.9**13,
        "backbone.patch_embed.proj.weight": 0.2 * 0.9**13,
        "backbone.blocks.0.attn.qkv.weight": 0.9**12,
        "backbone.blocks.10.ls1.gamma": 0.9**2,
        "backbone.blocks.11.norm2.bias": 0.9,
        "backbone.norm.weight": 1.0,
        "head.mlp.0.weight": 1.0,
        "head.last_layer.direction": 1.0,
        "matching.cross.in_proj_weight": 0.1,
    }
    assert {name: scales[name] for name in expected} == pytest.approx(expected)
    assert {method.clip_group(name) for name in scales} == {"backbone", "head", "matching"}
    assert method.clip_group("mask_token.value") == "backbone"
    released = small(released_lr=True)
    rates = {name.partition(".")[0]: released.lr_scale(name) for name, _ in released.student.named_parameters()}
    assert rates == {"backbone": 1.0, "head": 1.0, "mask_token": 1.0, "matching": 0.1}


def test_prototypes_rest_for_an_epoch_unless_as_released() -> None:
    method, released = small(), small(released_lr=True)
    names = [name for name, _ in method.student.named_parameters()]
    assert {name: method.rest_epochs(name) for name in names} == {name: int("last_layer" in name) for name in names}
    assert not any(released.rest_epochs(name) for name in names)
    assert not list(method.frozen_parameters(now(epoch=0)))  # their gradients stay, for the optimiser's moments


def test_decay_spares_norms_biases_and_layer_scale() -> None:
    method = small()
    decayed = {name for name, p in method.student.named_parameters() if method.decays(name, p)}
    assert {"mask_token.value", "backbone.reg_token", "matching.cross.in_proj_weight"} <= decayed
    assert not any("norm" in name or "gamma" in name or name.endswith("bias") for name in decayed)
    released = small(released_decay=True)
    more = {name for name, p in released.student.named_parameters() if released.decays(name, p)} - decayed
    assert more == {"matching.cross.in_proj_bias", "matching.itself.in_proj_bias"}


def test_published_views() -> None:
    plan = TCoRe.views(TCoRe.Args(), 16)
    current, around, local = plan.crops
    assert (plan.draw, plan.n_frames, plan.patch_px) == ("span", 3, 16)
    assert plan.timing == Sandwich((0.15, 0.25), (0.3, 0.7), (0.15, 0.25))
    assert (current.frames, current.size_px, current.scale, current.flip_p) == ((1,), 224, (0.32, 1.0), 0.0)
    assert current.mask == StratifiedMasks(0.5, (0.1, 0.5)) and around.mask is None and local.mask is None
    assert (around.frames, around.size_px, around.whole, around.flip_p) == ((0, 2), 224, True, 0.0)
    assert around.photometric == current.photometric and not around.shared_photometric
    assert (local.frames, local.size_px, local.scale, len(local.photometric)) == ((1,), 96, (0.05, 0.32), 8)
    assert local.flip_p == 0.5
    assert [(p.blur_p, p.solarise_p) for p in current.photometric] == [(0.0, 0.0), (0.9, 0.2)]
    assert {(p.blur_p, p.blur_taps, p.solarise_p) for p in local.photometric} == {(0.5, 9, 0.0)}


def test_exported_encoder_is_plain_timm() -> None:
    """Also at another size: positions are of patches alone, so registers keep their places."""
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, **REGISTERS}
    encoder = small().encoder
    plain = timm.create_model("vit_tiny_patch16_224", **exported_args(args)).double().eval()
    plain.load_state_dict(encoder.state_dict(), strict=True)
    assert plain.pos_embed.shape == (1, 16, 24) and plain.num_prefix_tokens == 5
    for side in (32, 48):
        images = torch.randn(2, 3, side, side, dtype=torch.float64)
        torch.testing.assert_close(plain.forward_features(images), encoder.eval().forward_features(images))


def test_architecture_starts_as_published() -> None:
    network = build_vit("vit_small_patch16_224", REGISTERS | {"init_values": 1e-5, "depth": 2}, drop_path_rate=0.1)
    uniform_drop_path(network, 0.1)
    assert [b.drop_path2.drop_prob for b in network.blocks] == [0.1, 0.1]
    assert 0 < network.reg_token.std() < 1e-5 and network.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert all((b.ls1.gamma == 1e-5).all() and (b.ls2.gamma == 1e-5).all() for b in network.blocks)


def test_pictures_show_where_a_masked_patch_looks() -> None:
    method = small().float().eval()
    batch = {name: value.float() if value.is_floating_point() else value for name, value in small_batch(method).items()}
    batch["global_mask"][0] = False
    frames = method.pictures(batch, now())["patch_matching"]
    shown = min(6, int(batch["global_mask"][1, 0].sum()))
    assert len(frames) == shown and {f.shape for f in frames} == {(32, 96, 3)} and frames[0].dtype.name == "uint8"
    grid = batch["global_mask"][1, 0, 0]
    first, last = grid.nonzero()[0].tolist(), grid.nonzero()[-1].tolist()
    for picture, (row, column) in ((frames[0], first), (frames[-1], last)):
        red = (picture[:, :32] == (255, 0, 0)).all(-1)
        assert red[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].all() and red.sum() == 64
    batch["global_mask"][:] = False
    assert method.pictures(batch, now()) == {}


def test_refusals() -> None:
    with pytest.raises(StageError, match="longer than the run"):
        small(warmup_teacher_temp_epochs=30)
    with pytest.raises(StageError, match="koleo_group = 3 does not divide the 4 samples"):
        small(koleo_group=3)(small_batch(small()), now())
    with pytest.raises(StageError, match=r"16 heads of patch matching do not divide the encoder.s width 24"):
        small(matching_heads=16)
