"""Label propagation against a loop over single cells in float64, written from the protocols' descriptions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from components.evaluate.propagation import Rule, allowed, propagate

DINO = Rule(2, 2, "square", True, False, top_k=5, keep_ties=True, temperature=0.1)
CROPMAE = Rule(3, 2, "disk", False, True, top_k=7, keep_ties=False, temperature=0.7)


def clip(n_frames: int = 6, height: int = 5, width: int = 7, dim: int = 9, n_labels: int = 3) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.random((height, width, n_labels))
    return torch.from_numpy(rng.normal(size=(n_frames, height, width, dim))), torch.from_numpy(labels)


def in_window(rule: Rule, y: int, x: int, v: int, u: int) -> bool:
    if rule.window == "square":
        return abs(y - v) <= rule.radius_cells and abs(x - u) <= rule.radius_cells
    return math.hypot(y - v, x - u) < rule.radius_cells


def naive(features: np.ndarray, first: np.ndarray, rule: Rule) -> list[np.ndarray]:
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    labels = [first]
    height, width = first.shape[:2]
    for t in range(1, len(unit)):
        earlier = range(t - rule.context_frames, t)
        if rule.fill_with_first:  # 20 copies of frame 0 in front, and frame 0 for ever: indices below 0 mean frame 0
            sources = [(0, rule.restrict_first)] + [(max(0, s), True) for s in earlier]
        else:
            sources = [(0, rule.restrict_first)] + [(s, True) for s in earlier if s >= 1]
        out = np.zeros_like(first)
        for y in range(height):
            for x in range(width):
                votes = [
                    (float(unit[t, y, x] @ unit[s, v, u]), labels[s][v, u])
                    for s, restricted in sources
                    for v in range(height)
                    for u in range(width)
                    if not restricted or in_window(rule, y, x, v, u)
                ]
                votes.sort(key=lambda vote: -vote[0])
                least = votes[min(rule.top_k, len(votes)) - 1][0]
                kept = [vote for vote in votes if vote[0] >= least] if rule.keep_ties else votes[: rule.top_k]
                weights = np.array([math.exp(similarity / rule.temperature) for similarity, _ in kept])
                out[y, x] = sum(w * label for w, (_, label) in zip(weights / weights.sum(), kept, strict=True))
        labels.append(out)
    return labels[1:]


OTHERS = [
    replace(DINO, top_k=1),
    replace(DINO, context_frames=0),
    replace(DINO, restrict_first=False),
    replace(DINO, fill_with_first=True),
    replace(CROPMAE, window="square"),
    replace(CROPMAE, fill_with_first=False),
    replace(CROPMAE, context_frames=0),
    replace(CROPMAE, top_k=1000),
]


@pytest.mark.parametrize("rule", [DINO, CROPMAE, *OTHERS])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 3)])
def test_equals_the_loop(rule: Rule, height: int, width: int) -> None:
    features, first = clip(6, height, width)
    found = list(propagate(features, first, rule))
    for ours, theirs in zip(found, naive(features.numpy(), first.numpy(), rule), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)


@pytest.mark.parametrize("rule", [DINO, CROPMAE])
def test_fewer_sources_than_votes(rule: Rule) -> None:
    """A window of one cell leaves fewer sources than top-k; barred cells must not vote."""
    rule = replace(rule, radius_cells=1, window="disk", restrict_first=True)
    features, first = clip(4, 3, 3)
    for ours, theirs in zip(
        propagate(features, first, rule), naive(features.numpy(), first.numpy(), rule), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)


@pytest.mark.parametrize("rule", [DINO, CROPMAE])
def test_static_clip_with_one_vote_returns_the_first_labels(rule: Rule) -> None:
    features, first = clip(1)
    for labels in propagate(features.expand(5, -1, -1, -1), first, replace(rule, top_k=1, keep_ties=False)):
        assert torch.equal(labels, first)


@pytest.mark.parametrize("rule", [DINO, replace(DINO, restrict_first=False), replace(DINO, top_k=1)])
def test_many_ties_equal_the_loop(rule: Rule) -> None:
    """Features that are the same or orthogonal: far more sources tie than vote, across cells and frames."""
    kinds = np.random.default_rng(1).integers(0, 4, (5, 4, 6))
    features, first = torch.from_numpy(np.eye(4)[kinds]), clip(1, 4, 6)[1]
    found = list(propagate(features, first, rule))
    for ours, theirs in zip(found, naive(features.numpy(), first.numpy(), rule), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)


def test_ties_all_vote_or_just_enough() -> None:
    """Two identical sources for one target: DINO's rule keeps both, videowalk's one of them."""
    features = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    first = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    (both,) = propagate(features, first, replace(DINO, top_k=1))
    assert torch.allclose(both, torch.full_like(both, 0.5))
    (one,) = propagate(features, first, replace(DINO, top_k=1, keep_ties=False))
    assert set(one.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("rule", [DINO, CROPMAE])
@pytest.mark.parametrize("block_cells", [1, 9, 20, 10_000])
def test_block_size_changes_nothing(rule: Rule, block_cells: int) -> None:
    features, first = clip()
    whole = list(propagate(features, first, rule))
    parts = list(propagate(features, first, replace(rule, block_cells=block_cells)))
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", [DINO, CROPMAE])
def test_permuted_objects_permute_the_result(rule: Rule) -> None:
    features, first = clip()
    order = [2, 0, 1]
    for plain, permuted in zip(
        propagate(features, first, rule), propagate(features, first[..., order], rule), strict=True
    ):
        torch.testing.assert_close(plain[..., order], permuted, atol=1e-12, rtol=0)


def test_soft_labels_stay_a_distribution() -> None:
    features, first = clip()
    for labels in propagate(features, first / first.sum(-1, keepdim=True), DINO):
        torch.testing.assert_close(labels.sum(-1), torch.ones(5, 7, dtype=torch.float64))


def test_windows() -> None:
    square = allowed(range(5), range(5), 5, replace(DINO, radius_cells=1)).view(5, 5, 5, 5)
    assert square[:, :, 2, 2].sum() == 9 and square[:, :, 0, 0].sum() == 4
    disk = allowed(range(5), range(5), 5, replace(CROPMAE, radius_cells=2)).view(5, 5, 5, 5)
    assert disk[:, :, 2, 2].sum() == 9  # distance below 2: the square of side 3, its corners at 1.41 included
    assert not disk[2, 4, 2, 2] and not disk[0, 2, 2, 2]


def test_reads_the_clip_as_a_stream() -> None:
    """A frame is asked for only when the one before is done, so memory is the context, however long the clip."""
    features, first = clip()
    asked: list[int] = []

    def frames():  # type: ignore[no-untyped-def]
        for t, frame in enumerate(features):
            asked.append(t)
            yield frame

    labels = propagate(frames(), first, DINO)
    next(labels)
    assert asked == [0, 1]
