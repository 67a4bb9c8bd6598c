"""DoRA's tracker against loops over samples, objects, frames and patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.pretrain.blocks.tracker import (
    TeacherView,
    apply_masks,
    binarise,
    draw_heads,
    object_attention,
    object_prototypes,
    track,
)

B, T, N, D, H = 3, 4, 12, 6, 3
HEADS = torch.tensor([2, 0])


def teacher_view(seed: int = 0, n: int = N, batch: int = B) -> TeacherView:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    attention = random(batch, T, H, n + 1).softmax(-1)[..., 1:]
    return TeacherView(random(batch, T, n, D), attention, random(batch, T, n, D), random(batch, T, n, D))


def part(view: TeacherView, b: int) -> TeacherView:
    fields = (view.patches, view.cls_attention, view.queries, view.keys)
    return TeacherView(*(x[b : b + 1] for x in fields))


def naive_plan(scores: Tensor) -> Tensor:
    """Thirty scalings of (N, k) scores on exponentials."""
    plan = ((scores - scores.max()) / 0.05).exp()
    for _ in range(30):
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
        plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
    return plan * plan.shape[0]


def naive_prototypes(view: TeacherView, b: int) -> list[Tensor]:
    rough = [sum(view.cls_attention[b, 0, h, n] * view.queries[b, 0, n] for n in range(N)) for h in HEADS]
    unit = [z / z.norm() for z in view.patches[b, 0]]
    plan = naive_plan(torch.stack([torch.stack([z @ p for p in rough]) for z in unit]))
    return [sum(plan[n, i] * unit[n] for n in range(N)) for i in range(len(HEADS))]


def test_prototypes_and_attention_equal_loops() -> None:
    view = teacher_view()
    prototypes = object_prototypes(view, HEADS, 0.05, 30)
    attention = object_attention(prototypes, view.keys)
    for b in range(B):
        for i, expected in enumerate(naive_prototypes(view, b)):
            torch.testing.assert_close(prototypes[b, i], expected, rtol=1e-8, atol=1e-10)
            for t in range(T):
                row = torch.stack([(expected @ key / D**0.5).exp() for key in view.keys[b, t]])
                torch.testing.assert_close(attention[i, b, t], row / row.sum(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("threshold", ["map", "batch"])
def test_masks_equal_loops(threshold: str) -> None:
    attention = object_attention(object_prototypes(teacher_view(), HEADS, 0.05, 30), teacher_view().keys)
    masks = binarise(attention, threshold)
    for i in range(2):
        for t in range(T):
            unit = [attention[i, b, t] / attention[i, b, t].pow(2).sum().sqrt() for b in range(B)]
            for b in range(B):
                mean = unit[b].mean() if threshold == "map" else torch.cat(unit).mean()
                assert masks[i, b, t].tolist() == [float(value) > float(mean) for value in unit[b]]
    assert masks.dtype == torch.bool and 0 < masks.sum() < masks.numel()


def test_a_clip_alone_is_tracked_as_in_a_batch() -> None:
    view, settings = teacher_view(), {"epsilon": 0.05, "n_iterations": 30}
    whole = track(view, HEADS, **settings, threshold="map")
    for b in range(B):
        alone = track(part(view, b), HEADS, **settings, threshold="map")
        assert torch.equal(alone[:, 0], whole[:, b])
        # one clip: the released rule and ours are the same
        assert torch.equal(alone, track(part(view, b), HEADS, **settings, threshold="batch"))


def test_the_object_is_kept_and_the_rest_goes() -> None:
    """Keys of one quadrant match the prototype: there pixels stay, elsewhere they become the mean colour."""
    grid = torch.zeros(14, 14, dtype=torch.bool)
    grid[:7, 7:] = True
    keys = torch.where(grid.flatten()[:, None], torch.tensor([8.0, 0.0]), torch.tensor([0.0, 8.0]))
    prototype = torch.tensor([[[4.0, 0.0]]])
    masks = binarise(object_attention(prototype, keys[None, None].float()), "map")
    frames = torch.randn(1, 1, 3, 224, 224)
    shown = apply_masks(frames, masks, (14, 14))[0, 0, 0]
    assert torch.equal(shown[:, :112, 112:], frames[0, 0, :, :112, 112:])
    assert not shown[:, 112:].any() and not shown[:, :, :112].any()


def test_masks_follow_what_they_track() -> None:
    """A patch that carries the object's key moves; so does its mask."""
    view = teacher_view(n=25, batch=1)
    view.keys[:] *= 0.01
    prototypes = object_prototypes(view, HEADS, 0.05, 30)
    for t in range(T):
        view.keys[0, t, 3 + 5 * t] = 50 * prototypes[0, 0]
    masks = track(view, HEADS, epsilon=0.05, n_iterations=30, threshold="map")
    for t in range(T):
        assert masks[0, 0, t].nonzero().flatten().tolist() == [3 + 5 * t]


def test_pixels_of_oblong_grids() -> None:
    frames, masks = torch.randn(2, 3, 3, 16, 24), torch.rand(2, 2, 3, 6) > 0.5
    shown = apply_masks(frames, masks, (2, 3))
    for k, b, t, y, x in [(0, 0, 0, 0, 0), (1, 1, 2, 15, 23), (0, 1, 1, 8, 7), (1, 0, 2, 7, 16)]:
        kept = masks[k, b, t, (y // 8) * 3 + x // 8]
        assert torch.equal(shown[k, b, t, :, y, x], frames[b, t, :, y, x] * kept)


def test_huge_and_half_precision_scores_leave_no_nan() -> None:
    view = teacher_view()
    big = TeacherView(view.patches, view.cls_attention, view.queries * 1e6, view.keys)
    for found in (big, TeacherView(*(x.bfloat16() for x in vars(view).values()))):
        with torch.autocast("cpu", torch.bfloat16):
            masks = track(found, HEADS, epsilon=0.05, n_iterations=30, threshold="map")
        assert masks.any(dim=-1).all() and not masks.all(dim=-1).any()
    assert not track(view, HEADS, epsilon=0.05, n_iterations=30, threshold="map").requires_grad


def test_heads_are_a_function_of_the_generators_state() -> None:
    generator = torch.Generator().manual_seed(3)
    first = draw_heads(6, 3, generator)
    assert torch.equal(first, draw_heads(6, 3, generator))
    assert torch.equal(first, draw_heads(6, 3, torch.Generator().manual_seed(3)))
    draws = {tuple(sorted(draw_heads(6, 3, torch.Generator().manual_seed(i)).tolist())) for i in range(300)}
    assert len(draws) == 20  # all ways to take 3 of 6, none twice in one draw
    assert all(len(set(draw)) == 3 for draw in draws)
