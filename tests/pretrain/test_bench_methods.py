"""The yardstick must measure the same thing: a naive flow's loss, gradients and steps are those of our methods."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from small import now, small_batch, small_method

ARGS: dict[str, dict[str, Any]] = {
    "dino": {},
    "ibot": {"warmup_teacher_temp_epochs": 2, "warmup_patch_temp_epochs": 2},
    "dora": {"n_frames": 3, "n_objects": 2, "clip_crop_px": 48, "sinkhorn_iterations": 5},
}


@pytest.mark.parametrize("name", ARGS)
def test_a_naive_flow_has_our_loss_and_gradients(name: str) -> None:
    method = small_method(name, **ARGS[name])
    flow = importlib.import_module(f"bench.naive.{name}").Naive(method, lr=1e-3, weight_decay=0.1, clip_norm=3.0)
    batch = small_batch(method)
    ours, theirs = method(batch, now()).loss, flow.loss(batch, now())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    ours.backward()
    theirs.backward()
    for (key, a), b in zip(method.student.named_parameters(), flow.student.parameters(), strict=True):
        if a.grad is not None or b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", ARGS)
def test_a_naive_step_trains_a_copy(name: str) -> None:
    method = small_method(name, **ARGS[name])
    before = {key: value.clone() for key, value in method.state_dict().items()}
    flow = importlib.import_module(f"bench.naive.{name}").Naive(method, lr=1e-3, weight_decay=0.1, clip_norm=3.0)
    batch = small_batch(method)
    losses = [flow.step(batch, now()) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    moved = [not torch.equal(before[f"teacher.{key}"], value) for key, value in flow.teacher.state_dict().items()]
    assert any(moved)
