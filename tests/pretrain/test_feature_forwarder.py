"""Label propagation against loops over clips, frames and patches, and on clips whose motion is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.pretrain.blocks.feature_forwarder import FeatureForwarder, neighbours

GRID = (3, 4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_carry(
    features: Tensor,
    labels: Tensor,
    columns: int,
    radius: int = 6,
    top_k: int | None = 5,
    temperature: float = 0.1,
    context: int = 7,
) -> list[Tensor]:
    """One clip (T, N, D) with labels (N, K) of its first frame: affinities as exponentials, kept and divided."""
    maps, unit = [labels], [[f / f.norm() for f in frame] for frame in features]
    for t in range(1, len(features)):
        seen = [0] + [s for s in range(1, t) if s >= t - context]
        carried = []
        for i, target in enumerate(unit[t]):
            found = []
            for s in seen:
                for j, source in enumerate(unit[s]):
                    rows, across = abs(i // columns - j // columns), abs(i % columns - j % columns)
                    if max(rows, across) <= radius:
                        found.append(((target @ source / temperature).exp(), maps[s][j]))
            if top_k is not None and len(found) > top_k:
                weakest = sorted((weight for weight, _ in found), reverse=True)[top_k - 1]
                found = [(weight, label) for weight, label in found if weight >= weakest]
            total = sum(weight for weight, _ in found)
            carried.append(sum(weight / total * label for weight, label in found))
        maps.append(torch.stack(carried))
    return maps


@pytest.mark.parametrize(
    "options",
    [{}, {"radius": 1}, {"top_k": None, "radius": 1}, {"context": 1, "top_k": 3}, {"context": 0}, {"radius": 0}],
    ids=str,
)
def test_equals_loops(options: dict[str, int]) -> None:
    features, labels = random(2, 5, 12, 6), random(2, 12, 7, seed=1).softmax(-1)
    carried = FeatureForwarder(**options)(features, labels, GRID)
    for b in range(2):
        for t, expected in enumerate(naive_carry(features[b], labels[b], GRID[1], **options)):
            torch.testing.assert_close(carried[b, t], expected, rtol=1e-9, atol=1e-12)


def test_ties_with_the_last_kept_patch_count_too() -> None:
    """Four sources are equally alike: with top_k 1 all four are kept."""
    features = torch.ones(1, 2, 4, 3, dtype=torch.float64)
    labels = torch.eye(4, dtype=torch.float64)[None]
    carried = FeatureForwarder(top_k=1)(features, labels, (2, 2))
    torch.testing.assert_close(carried[0, 1], torch.full((4, 4), 0.25, dtype=torch.float64))


def test_a_static_clip_keeps_its_labels() -> None:
    features = random(2, 1, 196, 64).expand(-1, 6, -1, -1)
    labels = random(2, 196, 20, seed=1).mul(3).softmax(-1)
    carried = FeatureForwarder()(features, labels, (14, 14))
    assert (carried.argmax(-1) == labels.argmax(-1)[:, None]).all()


@pytest.mark.parametrize("shift", [1, 3, 6, 7])
def test_labels_move_with_the_patches_within_the_radius_and_no_farther(shift: int) -> None:
    scene = random(14, 14 + shift, 64)
    names = torch.eye(14 * (14 + shift), dtype=torch.float64).unflatten(0, (14, 14 + shift))
    frames = torch.stack([scene[:, :14], scene[:, shift:]]).flatten(1, 2)  # all patches move to the left
    labels = names[:, :14].flatten(0, 1)
    carried = FeatureForwarder(top_k=1)(frames[None], labels[None], (14, 14))[0, 1]
    moved = names[:, shift:].flatten(0, 1)
    visible = moved[:, labels.any(dim=0)].any(dim=-1)  # patches of the second frame that the first one has
    same = (carried == moved).all(dim=-1)
    assert same[visible].all() if shift <= 6 else not same.any()


def test_a_clip_alone_is_carried_as_in_a_batch() -> None:
    features, labels = random(3, 4, 12, 6), random(3, 12, 5, seed=1).softmax(-1)
    whole = FeatureForwarder()(features, labels, GRID)
    for b in range(3):
        torch.testing.assert_close(FeatureForwarder()(features[b : b + 1], labels[b : b + 1], GRID)[0], whole[b])


def test_labels_stay_shares_in_low_precision_and_without_gradient() -> None:
    features, labels = random(2, 4, 12, 6).bfloat16().requires_grad_(), random(2, 12, 5).softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        carried = FeatureForwarder()(features, labels.float(), GRID)
    assert carried.dtype == torch.float32 and not carried.requires_grad
    torch.testing.assert_close(carried.sum(-1), torch.ones(2, 4, 12))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_neighbours_lie_in_a_square_around(rows: int, columns: int, radius: int) -> None:
    near = neighbours((rows, columns), radius)
    for i in range(rows * columns):
        for j in range(rows * columns):
            down, across = abs(i // columns - j // columns), abs(i % columns - j % columns)
            assert bool(near[i, j]) == (down <= radius and across <= radius)
