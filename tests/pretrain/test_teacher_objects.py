"""Objects found by the teacher: LOST step by step, connected pieces, and boxes from view to view by exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.common.vit import build_vit
from components.pretrain.blocks.feature_forwarder import FeatureForwarder
from components.pretrain.blocks.teacher_objects import Boxes, TeacherObjects, carry, in_views, lost, piece, to_source

GRID = (5, 6)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(where: Tensor, seed: int = 0) -> Tensor:
    """Keys (N, D): one direction on the ground, another on the object, noise on both."""
    ground, thing = noise(2, 16, seed=seed) * 3
    return torch.where(where.flatten()[:, None], thing, ground) + 0.3 * noise(where.numel(), 16, seed=seed + 1)


def square(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def naive_lost(keys: Tensor, grid: tuple[int, int], seeds: int) -> set[tuple[int, int]]:
    """LOST's section 3.2, patch by patch, with the flood fill that its code leaves to a library."""
    f = [[float(x) for x in row - keys.mean(0)] for row in keys]
    n = len(f)
    like = [[sum(a * b for a, b in zip(f[p], f[q], strict=True)) for q in range(n)] for p in range(n)]
    degree = [sum(like[p][q] >= 0 for q in range(n)) for p in range(n)]
    order = sorted(range(n), key=lambda p: (degree[p], p))
    seed = order[0]
    grown = [q for q in order[:seeds] if like[q][seed] >= 0]
    kept = {divmod(q, grid[1]) for q in range(n) if sum(like[q][s] for s in grown) >= 0}
    reached, edge = set(), [divmod(seed, grid[1])]
    while edge:
        y, x = edge.pop()
        if (y, x) in kept - reached:
            reached.add((y, x))
            edge += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return reached


@pytest.mark.parametrize("seed", range(4))
def test_lost_equals_the_loop(seed: int) -> None:
    keys = torch.stack([noise(30, 16, seed=seed), planted(square(slice(1, 3), slice(2, 4)), seed)])
    found = lost(keys, GRID, seed_share=0.2)
    for b in range(2):
        assert {tuple(cell) for cell in found[b].nonzero().tolist()} == naive_lost(keys[b], GRID, 6)


def test_lost_finds_what_is_unlike_the_rest_and_only_the_piece_of_its_seed() -> None:
    thing = square(slice(1, 3), slice(2, 4))
    assert torch.equal(lost(planted(thing)[None], GRID, 0.08)[0], thing)
    common = lost(planted(thing)[None] + 40, GRID, 0.08)  # keys that all point about the same way
    assert torch.equal(common[0], thing)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1), st.floats(0.2, 0.9))
@settings(max_examples=40, deadline=None)
def test_pieces_are_opencvs(rows: int, columns: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask, start = rng.random((rows, columns)) < share, int(rng.integers(rows * columns))
    found = piece(torch.from_numpy(mask)[None], torch.tensor([start]))[0].numpy()
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    y, x = divmod(start, columns)
    np.testing.assert_array_equal(found, (labels == labels[y, x]) & mask[y, x])


def test_a_long_way_is_still_one_piece() -> None:
    snake = torch.zeros(9, 9, dtype=torch.bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    assert torch.equal(piece(snake[None], torch.tensor([0]))[0], snake)


def overlaps(box: Any, view: Any, grid: int, row: int, column: int) -> bool:
    """Whether a patch of a view, mapped to the source frame, shares area with a box; exact."""
    x0, y0, x1, y1, flip = (Fraction(v) for v in view)
    column = grid - 1 - column if flip else column
    left, right = (x0 + (x1 - x0) * Fraction(c, grid) for c in (column, column + 1))
    top, bottom = (y0 + (y1 - y0) * Fraction(r, grid) for r in (row, row + 1))
    return bool(min(right, Fraction(box[2])) > max(left, Fraction(box[0]))) and bool(
        min(bottom, Fraction(box[3])) > max(top, Fraction(box[1]))
    )


place = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(8, 60), st.integers(8, 60))


@given(place, place, st.booleans(), st.integers(1, 6), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_patches_of_a_box_by_fractions(box: Any, view: Any, flip: bool, grid: int, margin: int) -> None:
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    geometry = (view[0], view[1], view[0] + view[2], view[1] + view[3], int(flip))
    found = in_views(
        Boxes(torch.tensor([corners], dtype=torch.float32), torch.tensor([True])),
        torch.tensor([[geometry]], dtype=torch.float32),
        grid,
        margin,
    )[0, 0]
    expected = torch.zeros(grid, grid, dtype=torch.bool)
    for row in range(grid):
        for column in range(grid):
            if overlaps(corners, geometry, grid, row, column):
                near = [slice(max(i - margin, 0), i + margin + 1) for i in (row, column)]
                expected[near[0], near[1]] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("flip", [0, 1])
def test_to_the_source_and_back(flip: int) -> None:
    mask = square(slice(1, 3), slice(0, 2))[:, :5] | square(slice(2, 4), slice(1, 3))[:, :5]
    view = torch.tensor([[10.0, 20.0, 110.0, 70.0, flip]])
    boxes = to_source(mask[None], view, (0.0, 1.0))
    x0, x1 = (10, 70) if not flip else (50, 110)
    torch.testing.assert_close(boxes.corners, torch.tensor([[x0, 30.0, x1, 60.0]]))
    back = in_views(boxes, view[:, None], 5, 0)[0, 0]
    assert torch.equal(back, square(slice(1, 4), slice(0, 3))[:, :5])
    other = torch.tensor([[[200.0, 200.0, 300.0, 300.0, 0.0]]])
    assert not in_views(boxes, other, 5, 2).any()


def test_too_small_and_too_large_is_no_object() -> None:
    view = torch.tensor([[0.0, 0.0, 100.0, 100.0, 0.0]]).expand(3, 5)
    masks = torch.zeros(3, 5, 5, dtype=torch.bool)
    masks[0, 0, 0], masks[1, :2, :2], masks[2, 0, :] = True, True, True
    masks[2, :, 0] = True  # few patches, but their rectangle is the whole view
    boxes = to_source(masks, view, (0.1, 0.6))
    assert boxes.found.tolist() == [False, True, False]
    assert in_views(boxes, view[:, None], 5, 1).flatten(1).any(1).tolist() == [False, True, False]
    assert to_source(torch.zeros(1, 5, 5, dtype=torch.bool), view[:1], (0.0, 1.0)).found.tolist() == [False]


def test_an_object_is_found_again_where_it_has_moved_to() -> None:
    before, after = square(slice(1, 3), slice(1, 3)), square(slice(3, 5), slice(4, 6))
    gone = torch.zeros(GRID, dtype=torch.bool)
    anchor = torch.stack([planted(before)] * 2)
    other = torch.stack([planted(after), planted(gone)])
    found = carry(anchor, torch.stack([before, before]), other, FeatureForwarder(radius=6, context=0))
    assert torch.equal(found[0], after)
    assert not found[1].any()
    nothing = carry(anchor, torch.stack([gone, gone]), other, FeatureForwarder(radius=6, context=0))
    assert not nothing.any()


def test_a_sample_alone_and_in_a_batch() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        backbone = build_vit("vit_tiny_patch16_224", sizes).double()
    batch = {
        "global": noise(3, 2, 1, 3, 32, 32),
        "neighbour": noise(3, 2, 1, 3, 32, 32, seed=1),
        "local": noise(3, 4, 1, 3, 16, 16, seed=2),
    }
    for name in list(batch):
        start = torch.rand(*batch[name].shape[:3], 2, generator=torch.Generator().manual_seed(3)) * 40
        batch[f"{name}_box"] = torch.cat([start, start + 50, torch.zeros_like(start[..., :1])], dim=-1)
    find, groups = TeacherObjects((0.0, 1.0), 0.1, 1), ["global", "local", "neighbour"]
    whole = find(backbone, batch, groups)
    assert {name: x.shape for name, x in whole.items()} == {
        "global": (3, 2, 4, 4), "local": (3, 4, 2, 2), "neighbour": (3, 2, 4, 4),
    }  # fmt: skip
    assert whole["global"].any((2, 3))[:, 0].all()
    for b in range(3):
        alone = find(backbone, {name: x[b : b + 1] for name, x in batch.items()}, groups)
        assert all(torch.equal(alone[name][0], whole[name][b]) for name in groups)
