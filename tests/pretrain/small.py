"""Methods of a few thousand weights in float64, their batches, and cross-entropy as a loop from the equations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.common.vit import build_vit
from components.pretrain.config import find_method
from components.pretrain.method import Method, Now

NETWORK = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
ARGS = {"out_dim": 20, "hidden_dim": 16, "bottleneck_dim": 8, "global_size_px": 32, "local_size_px": 16}


def small_method(name: str, epochs: float = 3, network: dict[str, Any] | None = None, **args: Any) -> Method:
    """A method on its start, student and teacher apart, in float64; no drop path unless asked for."""
    kind = find_method(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build = partial(build_vit, "vit_tiny_patch16_224", NETWORK | (network or {}))
        method = kind(kind.Args(**{**ARGS, "local_crops": 3, "drop_path": 0.0, **args}), build, epochs).double()
        with torch.no_grad():
            for parameter in method.teacher.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
            for name_, buffer in method.named_buffers():
                if "centre" in name_:
                    buffer.normal_(std=0.1)
    return method


def small_batch(method: Any, size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """What the loader delivers for the plan, at random: views, their boxes, masks on every other view, objects."""
    generator = torch.Generator().manual_seed(seed)
    plan = type(method).views(method.args, method.student["backbone"].patch_embed.patch_size[0])
    batch: dict[str, Tensor] = {}
    for crop in plan.crops:
        lead, side = (size, len(crop.photometric), len(crop.frames)), crop.size_px
        batch[crop.name] = torch.randn(*lead, 3, side, side, generator=generator, dtype=torch.float64)
    for crop in plan.crops:
        lead = batch[crop.name].shape[:3]
        start, extent = torch.rand(2, *lead, 2, generator=generator) * 40
        flip = torch.rand(*lead, 1, generator=generator).round()
        batch[f"{crop.name}_box"] = torch.cat([start, start + 20 + extent, flip], dim=-1)
        if crop.mask is not None:
            masks = torch.rand(*lead, plan.grid(crop), plan.grid(crop), generator=generator) < 0.4
            masks[:, 1::2] = False
            batch[f"{crop.name}_mask"] = masks
        if plan.objects is not None:
            objects = torch.rand(*lead, plan.grid(crop), plan.grid(crop), generator=generator) < 0.4
            objects[0, 1:2], objects[-1] = False, False  # a view that lacks the object, a sample that has none
            batch[f"{crop.name}_object"] = objects
    return batch


def now(step: int = 5, epoch: int = 1, momentum: float = 0.9) -> Now:
    return Now(step, epoch, 3, momentum, torch.Generator().manual_seed(step))


def entropy(teacher: Tensor, centre: Tensor, tau: float, student: Tensor, tau_s: float = 0.1) -> Tensor:
    """H of one pair of rows (K,), summed prototype by prototype."""
    t = [((z - c) / tau).exp() for z, c in zip(teacher, centre, strict=True)]
    s = [(z / tau_s).exp() for z in student]
    total: Any = 0.0
    for ti, si in zip(t, s, strict=True):
        total = total - ti / sum(t) * (si / sum(s)).log()
    return total


def mean(values: Any) -> Any:
    values = list(values)
    return sum(values) / len(values)


def assert_same_gradients(method: Method, loss: Tensor, expected: Tensor) -> None:
    """Equal losses (1e-9) and gradients (1e-6: timm resizes positions in float32), none of them in the teacher."""
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    named = [(name, p) for name, p in method.student.named_parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True)
    theirs = torch.autograd.grad(expected, [p for _, p in named])
    for (name, _), a, b in zip(named, ours, theirs, strict=True):
        assert a.abs().max() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def halves(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for part in (slice(0, 2), slice(2, 4)):
        yield {name: views[part] for name, views in batch.items()}


def assert_accumulates(name: str, **args: Any) -> None:
    """Two micro-batches of 2 give the gradients and the centres of one batch of 4."""
    whole, parts = small_method(name, **args), small_method(name, **args)
    batch = small_batch(whole)
    shared = now()  # one object for both halves: a draw must not use the generator up
    whole(*whole.before_step([batch], now()), now()).loss.backward()
    for half in parts.before_step(list(halves(batch)), shared):
        (parts(half, shared).loss / 2).backward()
    for method in (whole, parts):
        method.after_step(now())
    for (key, a), b in zip(whole.student.named_parameters(), parts.student.parameters(), strict=True):
        if a.grad is not None:
            # timm resizes positions in float32, so their gradient has float32's precision
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")
    for (key, a), b in zip(whole.named_buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


def assert_follows(name: str, **args: Any) -> None:
    """after_step moves every teacher tensor by the EMA exactly, and nothing of the student."""
    method = small_method(name, **args)
    method(small_batch(method), now())
    teacher = {key: p.clone() for key, p in method.teacher.named_parameters()}
    student = {key: p.clone() for key, p in method.student.named_parameters()}
    method.after_step(now(momentum=0.9))
    assert teacher.keys() <= student.keys()
    for key, p in method.teacher.named_parameters():
        torch.testing.assert_close(p, 0.9 * teacher[key] + 0.1 * student[key], rtol=1e-12, atol=1e-14)
    assert all(torch.equal(p, student[key]) for key, p in method.student.named_parameters())
    followed = {key: p.clone() for key, p in method.teacher.named_parameters()}
    method.after_step(now(momentum=1.0))
    assert all(torch.equal(p, followed[key]) for key, p in method.teacher.named_parameters())


def assert_drops_paths_in_student_only(name: str, **args: Any) -> None:
    method = small_method(name, drop_path=0.5, **args).train()
    batch, losses, targets = small_batch(method), [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        output = method(batch, now())
        losses.append(output.loss.item())
        targets.append(output.monitors["teacher_probs"])
    assert losses[0] != losses[1]
    assert torch.equal(*targets)
    torch.manual_seed(0)
    assert method(batch, now()).loss.item() == pytest.approx(losses[0], abs=1e-12)


def assert_freezes_prototypes(name: str, n_heads: int, **args: Any) -> None:
    method = small_method(name, freeze_last_layer_epochs=1, **args)
    names = {id(p): key for key, p in method.student.named_parameters()}
    frozen = {names[id(p)] for p in method.frozen_parameters(now(epoch=0))}
    assert frozen == {key for key in names.values() if "last_layer" in key} and len(frozen) == 2 * n_heads
    assert list(method.frozen_parameters(now(epoch=1))) == []
