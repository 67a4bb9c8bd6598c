"""TimeT against its equations, and what its options switch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from small import assert_same_gradients, now
from test_feature_forwarder import naive_carry
from torch import Tensor, nn

from components.common.config import parse
from components.common.errors import StageError
from components.common.foreground import foreground
from components.common.vit import build_vit
from components.pretrain.config import PretrainParams, params_model
from components.pretrain.methods.dino import DINO
from components.pretrain.methods.timet import TimeT, label_loss
from components.pretrain.plan import Consecutive, Regular, UniformTimes
from components.pretrain.run import check_start

NETWORK = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
ARGS = {"global_size_px": 32, "out_dim": 12, "hidden_dims": (20, 16), "bottleneck_dim": 10, "radius": 2}


def timet(epochs: float = 3, **args: Any) -> TimeT:
    """A TimeT in float64, its head wider awake than its start, its teacher apart from the student."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build = partial(build_vit, "vit_tiny_patch16_224", NETWORK)
        method = TimeT(TimeT.Args(**{**ARGS, **args}), build, epochs).double()
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            method.student["prototypes"].normalise()
            if method.args.ema:
                method.teacher.load_state_dict(method.student.state_dict())
                n = method.args.trainable_blocks
                learning = nn.ModuleList([method.teacher["backbone"].blocks[-n:], method.teacher["head"]])
                for parameter in learning.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return method


def clips(n: int = 2, frames: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"global": torch.randn(n, 1, frames, 3, 32, 32, generator=generator, dtype=torch.float64)}


def patches(network: Any, image: Tensor) -> Tensor:
    """Patch tokens (N, D) of one image (3, S, S), by timm's own forward pass."""
    return network["backbone"].forward_features(image[None])[0, 1:]


def cosines(network: Any, tokens: Tensor) -> Tensor:
    """Scores (N, K): unit rows of the head against prototypes that are unit rows themselves."""
    rows = network["head"](tokens)
    return torch.stack([torch.stack([r @ m / r.norm() for m in network["prototypes"].weight]) for r in rows])


def naive_sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 10) -> Tensor:
    """Rows (R, K) on exponentials: prototypes to 1/K, patches to 1/R, ten times."""
    q = (scores / epsilon).exp().T
    q = q / q.sum()
    for _ in range(iterations):
        q = torch.stack([row / row.sum() / q.shape[0] for row in q])
        q = torch.stack([column / column.sum() / q.shape[1] for column in q.T]).T
    return torch.stack([column / column.sum() for column in q.T])


def naive_loss(method: TimeT, batch: dict[str, Tensor], extra: Tensor | None = None) -> Tensor:
    """One image at a time, with `extra` scores (R, K) beside the batch's in Sinkhorn."""
    videos, assigning = batch["global"][:, 0], method.teacher if method.args.ema else method.student
    with torch.no_grad():
        scores = [cosines(assigning, patches(assigning, video[0])) for video in videos]
        q = naive_sinkhorn(torch.cat([*scores, *([] if extra is None else [extra])]))
    total: Any = 0.0
    for b, video in enumerate(videos):
        tokens = [patches(method.student, frame) for frame in video]
        carried = naive_carry(torch.stack(tokens).detach(), q[16 * b : 16 * b + 16], 4, radius=2)[-1].tolist()
        for row, shares in zip(cosines(method.student, tokens[-1]), carried, strict=True):
            total = total - row[shares.index(max(shares))] / 0.1 + sum((s / 0.1).exp() for s in row).log()
    return total / (len(videos) * 16)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("frames", [2, 4])
def test_loss_and_gradients_equal_the_equations(ema: bool, frames: int) -> None:
    method, batch = timet(ema=ema, n_frames=frames), clips(frames=frames)
    output = method(batch, now())
    assert_same_gradients(method, output.loss, naive_loss(method, batch))


def test_gradients_reach_the_last_blocks_the_head_and_the_prototypes_alone() -> None:
    method = timet()
    method(clips(), now()).loss.backward()
    for name, parameter in method.student.named_parameters():
        learns = name.startswith(("backbone.blocks.2.", "backbone.blocks.3.", "head.", "prototypes."))
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_only_the_last_frame_has_gradients_even_if_all_blocks_learn() -> None:
    method, batch = timet(trainable_blocks="all"), clips()
    batch["global"].requires_grad_()
    method(batch, now()).loss.backward()
    grads = batch["global"].grad
    assert grads is not None and not grads[:, :, :-1].any() and grads[:, :, -1].any()
    assert all(p.grad is not None for p in method.student.parameters())


def test_other_numbers_of_trainable_blocks() -> None:
    one = timet(trainable_blocks=1)
    assert not any(p.requires_grad for p in one.student["backbone"].blocks[2].parameters())
    losses = [timet(trainable_blocks=n)(clips(), now()).loss.item() for n in (1, 4, "all")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)  # who learns changes no forward pass
    for wrong in (0, 5):
        with pytest.raises(StageError, match=f"trainable_blocks = {wrong} of an encoder of 4 blocks"):
            timet(trainable_blocks=wrong)


@pytest.mark.parametrize("options", [{}, {"ema": True}, {"queue": 30, "queue_per_clip": 5}], ids=str)
def test_micro_batches_equal_the_large_batch(options: dict[str, Any]) -> None:
    """Sinkhorn sees all patches of a step at once, so halves that know of each other give the whole's numbers."""
    whole, parts, step = timet(**options), timet(**options), now()
    for seed in (1, 2):  # the queue of 30 is full in the second step
        batch = clips(4, seed=seed)
        output = whole(batch, step)
        output.loss.backward()
        halves = [{"global": batch["global"][half]} for half in (slice(0, 2), slice(2, 4))]
        outputs = [parts(half, step) for half in parts.before_step(halves, step)]
        sum(o.loss / 2 for o in outputs).backward()
        both = torch.cat([o.monitors["teacher_probs"] for o in outputs])
        torch.testing.assert_close(both, output.monitors["teacher_probs"], rtol=1e-9, atol=1e-12)
    for (name, a), b in zip(whole.student.named_parameters(), parts.student.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
    alone = timet(**options)({"global": clips(4, seed=1)["global"][:2]}, step)
    assert not torch.equal(
        alone.monitors["teacher_probs"], timet(**options)(clips(4, seed=1), step).monitors["teacher_probs"][:16]
    )


@pytest.mark.parametrize("compat", [False, True])
def test_teacher_follows_and_assigns_and_is_exported(compat: bool) -> None:
    method, batch = timet(ema=True, compat=compat), clips()
    student, teacher = (
        {name: p.clone() for name, p in network.named_parameters()} for network in (method.student, method.teacher)
    )
    assert method.encoder is method.teacher["backbone"] and timet().encoder is not None
    method(batch, now()).loss.backward()
    method.after_step(now(momentum=0.1 if compat else 0.9))  # the released update swaps the two weights
    for name, p in method.teacher.named_parameters():
        expected = 0.9 * teacher[name] + 0.1 * student[name]
        if name == "prototypes.weight":
            expected = expected / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-14)
    assert not any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    with torch.no_grad():  # another teacher, other labels
        before = method.before_step([batch], now())[0]
        method.teacher["head"][-1].weight.neg_()
        after = method.before_step([batch], now())[0]
    assert torch.equal(before["features"], after["features"])
    assert not torch.equal(before["assignment"], after["assignment"])


def test_without_a_teacher_the_student_is_exported_and_prototypes_stay_on_the_sphere() -> None:
    method = timet()
    assert method.encoder is method.student["backbone"] and not list(method.teacher.parameters())
    with torch.no_grad():
        method.student["prototypes"].weight.mul_(3)
    method.after_step(now())
    torch.testing.assert_close(method.student["prototypes"].weight.norm(dim=-1), torch.ones(12).double())


def test_queue_joins_the_assignment_once_it_is_full() -> None:
    method = timet(queue=25, queue_per_clip=5)  # ten rows a step
    batches = [clips(seed=seed) for seed in range(3)]
    losses = [method(batch, now()).loss for batch in batches]
    for batch, loss in zip(batches[:2], losses[:2], strict=True):
        torch.testing.assert_close(loss, naive_loss(method, batch))
    with torch.no_grad():
        extra = method.student["prototypes"](method.queue.rows)
    torch.testing.assert_close(losses[2], naive_loss(method, batches[2], extra))
    plain, with_queue = (timet(queue=n, queue_per_clip=25)(batches[0], now()) for n in (0, 25))
    assert not torch.equal(plain.monitors["teacher_probs"], with_queue.monitors["teacher_probs"])
    assert {"queue.rows", "queue.seen"} <= method.state_dict().keys()  # a resumed run finds it full


def test_foreground_leaves_the_background_out() -> None:
    method, batch = timet(foreground=True), clips()
    output = method(batch, now())
    masks = [[attended(method.student, frame) for frame in video[[0, -1]]] for video in batch["global"][:, 0]]
    assert 0 < sum(mask.sum() for pair in masks for mask in pair) < 4 * 16
    with torch.no_grad():
        projected = [method.student["head"](patches(method.student, v[0])) for v in batch["global"][:, 0]]
        rows = [p * mask[:, None] for p, (mask, _) in zip(projected, masks, strict=True)]
        q = naive_sinkhorn(torch.cat([method.student["prototypes"](r) for r in rows]))
    total: Any = 0.0
    for b, video in enumerate(batch["global"][:, 0]):
        features = torch.stack([patches(method.student, frame) for frame in video])
        labels = naive_carry(features.detach(), q[16 * b : 16 * b + 16], 4, radius=2)[-1].argmax(-1)
        scores = cosines(method.student, features[-1])
        for i, row in enumerate(scores):
            total = total - (row / 0.1).log_softmax(-1)[labels[i]] * masks[b][1][i]
    torch.testing.assert_close(output.loss, total / 32, rtol=1e-9, atol=1e-9)


def attended(network: Any, image: Tensor) -> Tensor:
    """Foreground (N,) of one image, its last block's attention written out."""
    backbone = network["backbone"]
    _, inner = backbone.forward_intermediates(image[None], indices=[2], return_prefix_tokens=True, output_fmt="NLC")
    block = backbone.blocks[3]
    x = block.norm1(torch.cat([inner[0][1], inner[0][0]], dim=1))[0]
    q, k, _ = block.attn.qkv(x).view(17, 3, 3, 8).unbind(1)
    attention = torch.stack([((q[0, h] @ k[:, h].T) / math.sqrt(8)).softmax(-1)[1:] for h in range(3)])
    return foreground(attention[None], (4, 4), mass=0.65)[0]


def test_compat_reproduces_the_released_loader() -> None:
    method, released, batch = timet(), timet(compat=True), clips()
    scaled = batch["global"].clone()
    scaled[:, :, :, 0] *= 0.229 / 0.228  # of (B, V, T, 3, S, S): red
    torch.testing.assert_close(released(batch, now()).loss, method({"global": scaled}, now()).loss)
    ours, theirs = (TimeT.views(m.args, 8).crops[0] for m in (method, released))
    assert (ours.flip_p, ours.photometric[0].one_jitter_op, ours.blur_sigma_per_frame) == (0.5, False, False)
    assert (theirs.flip_p, theirs.photometric[0].one_jitter_op, theirs.blur_sigma_per_frame) == (0.0, True, True)


def test_views_share_box_flip_and_colours_of_a_clip() -> None:
    plan = TimeT.views(TimeT.Args(), 16)
    (clip,) = plan.crops
    assert (plan.draw, plan.n_frames, plan.timing, clip.frames) == ("span", 4, UniformTimes(4), (0, 1, 2, 3))
    assert (clip.size_px, clip.scale, clip.flip_p) == (224, (0.4, 1.0), 0.5)
    assert clip.shared_geometry and clip.shared_photometric
    colours = clip.photometric[0]
    assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (colours.jitter_p, colours.grey_p, colours.blur_p, colours.blur_sigma_px) == (0.8, 0.2, 0.5, (0.1, 2.0))
    assert colours.solarise_p == 0
    assert TimeT.views(TimeT.Args(sampling="dense"), 16).timing == Consecutive(4)
    assert TimeT.views(TimeT.Args(sampling="regular", n_frames=3), 16).timing == Regular(3, 0.5)


def test_the_encoder_learns_at_a_tenth_of_the_rate() -> None:
    method = timet()
    assert {name: method.lr_scale(name) for name in ("backbone.blocks.3.attn.qkv.weight", "head.0.bias")} == {
        "backbone.blocks.3.attn.qkv.weight": 0.1,
        "head.0.bias": 1.0,
    }
    assert method.lr_scale("prototypes.weight") == 1.0


def test_an_encoder_that_has_learnt_nothing_is_refused() -> None:
    def section(**changes: Any) -> PretrainParams:
        values = {"method": "timet", **changes}
        return parse(params_model("timet", values), values, "test")

    with pytest.raises(StageError, match="timet tunes an encoder that has learnt before, and there is none"):
        check_start(section())
    check_start(section(encoder={"start_from": "timm:vit_small_patch16_224.dino"}))
    check_start(section(args={"trainable_blocks": "all"}))
    check_start(section(trainer={"max_steps": 0}))  # nothing is trained
    assert not DINO.needs_start(None)


def test_views_of_half_patches_are_refused() -> None:
    with pytest.raises(StageError, match="'global_size_px' = 36 is no multiple of the encoder's 8-pixel patches"):
        timet(global_size_px=36)


def test_label_loss_counts_the_masked_patches_as_nothing() -> None:
    scores, labels = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    rows = [[-(scores[b, i] / 0.1).log_softmax(-1)[labels[b, i]] for i in range(3)] for b in range(2)]
    expected = sum(rows[b][i] for b in range(2) for i in range(3) if mask[b, i]) / 6
    torch.testing.assert_close(label_loss(scores, labels, 0.1, mask), expected)
    assert label_loss(scores.bfloat16(), labels, 0.1).dtype == torch.float32


def scenes(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Static clips of flat coloured quarters: what a patch is stays what it is."""
    colours = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {
        "global": colours.repeat_interleave(16, -1).repeat_interleave(16, -2)[:, None, None].repeat(1, 1, 4, 1, 1, 1)
    }


def test_random_prototypes_are_better_than_chance_and_training_makes_them_agree() -> None:
    method, batch = timet(bottleneck_dim=256), scenes(4)
    optimiser = torch.optim.AdamW([p for p in method.student.parameters() if p.requires_grad], lr=3e-3)
    outputs = []
    for _ in range(15):
        outputs.append(method(batch, now()))
        optimiser.zero_grad()
        outputs[-1].loss.backward()
        optimiser.step()
        method.after_step(now())
    assert outputs[0].loss.item() < math.log(12)
    assert outputs[-1].loss.item() < 0.6 * outputs[0].loss.item()
    assert outputs[-1].terms["agreement"] > outputs[0].terms["agreement"]
    assert len(set(outputs[-1].monitors["teacher_probs"].argmax(-1).tolist())) > 6  # Sinkhorn keeps them in use


def test_pictures_show_each_frame_and_its_labels() -> None:
    method, batch = timet(ema=True, queue=8), clips()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    frames = method.pictures(batch, now())["carried_assignments"]
    assert len(frames) == 4 and all(frame.shape == (32, 64, 3) and frame.dtype.name == "uint8" for frame in frames)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in state.items())
