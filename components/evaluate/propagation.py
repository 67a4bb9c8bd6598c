"""Label propagation over a clip: every cell copies the labels of the cells it resembles most in earlier frames.

Jabri et al. (arXiv:2006.14613), in the two forms that papers quote: that of DINO's released evaluation and that of
videowalk, CropMAE and T-CoRe. Nothing is learnt. Memory holds the context only, however long the clip is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """How labels travel.

    Attributes:
        context_frames: earlier frames asked, besides the first one.
        radius_cells: how far a label may move, in cells of the feature grid.
        window: `square` allows |dy|, |dx| <= radius; `disk` a Euclidean distance below the radius.
        restrict_first: the window holds for the first frame as well.
        fill_with_first: before there are enough earlier frames, copies of the first one stand in for them.
        top_k: source cells that vote for a cell.
        keep_ties: sources as similar as the k-th vote too.
        temperature: of the softmax over the voters' cosine similarities.
        block_cells: target cells worked on at once; memory, not result.
    """

    context_frames: int
    radius_cells: int
    window: Literal["square", "disk"]
    restrict_first: bool
    fill_with_first: bool
    top_k: int
    keep_ties: bool
    temperature: float
    block_cells: int = 512


@dataclass(frozen=True)
class Source:
    """An earlier frame: unit features (h, w, D), soft labels (h, w, C), and whether the window holds for it."""

    features: Tensor
    labels: Tensor
    restricted: bool


def propagate(features: Iterable[Tensor], first_labels: Tensor, rule: Rule) -> Iterator[Tensor]:
    """Soft labels (h, w, C) of every frame but the first.

    Args:
        features: feature grids (h, w, D), frame by frame; consumed as a stream.
        first_labels: (h, w, C) of the first frame.
    """
    frames = iter(features)
    start = F.normalize(next(frames), dim=-1)
    first = Source(start, first_labels, rule.restrict_first)
    filler = Source(start, first_labels, True)
    recent: deque[Source] = deque(maxlen=rule.context_frames)
    for frame in frames:
        target = F.normalize(frame, dim=-1)
        n_missing = rule.context_frames - len(recent) if rule.fill_with_first else 0
        labels = predict(target, [first, *[filler] * n_missing, *recent], rule)
        recent.append(Source(target, labels, True))
        yield labels


def predict(target: Tensor, sources: list[Source], rule: Rule) -> Tensor:
    """Soft labels (h, w, C) of one frame with unit features (h, w, D)."""
    height, width = target.shape[:2]
    step = max(1, rule.block_cells // width)
    blocks = [_block(target, sources, top, min(top + step, height), rule) for top in range(0, height, step)]
    return torch.cat(blocks).view(height, width, -1)


def _block(target: Tensor, sources: list[Source], top: int, bottom: int, rule: Rule) -> Tensor:
    """Labels (cells, C) of target rows top..bottom; only source rows within the radius are looked at."""
    height, width, dim = target.shape
    queries = target[top:bottom].reshape(-1, dim)
    low, high = max(0, top - rule.radius_cells), min(height, bottom + rule.radius_cells)
    barred = ~allowed(range(top, bottom), range(low, high), width, rule).to(target.device)
    similar, labels = [], []
    for source in sources:
        rows = slice(low, high) if source.restricted else slice(0, height)
        likeness = queries @ source.features[rows].reshape(-1, dim).T
        similar.append(likeness.masked_fill_(barred, -torch.inf) if source.restricted else likeness)
        labels.append(source.labels[rows].flatten(0, 1))
    return vote(torch.cat(similar, dim=1), torch.cat(labels), rule)


def allowed(rows: range, source_rows: range, width: int, rule: Rule) -> Tensor:
    """bool (len(rows) * width, len(source_rows) * width): which source cells lie in the window of which target."""
    dy = torch.tensor(rows)[:, None] - torch.tensor(source_rows)
    dx = torch.arange(width)[:, None] - torch.arange(width)
    if rule.window == "square":
        near = (dy.abs() <= rule.radius_cells)[:, None, :, None] & (dx.abs() <= rule.radius_cells)[None, :, None, :]
    else:
        near = dy.square()[:, None, :, None] + dx.square()[None, :, None, :] < rule.radius_cells**2
    return near.reshape(len(rows) * width, len(source_rows) * width)


def vote(similar: Tensor, labels: Tensor, rule: Rule) -> Tensor:
    """Mean label (cells, C) of each row's top-k sources, weighted by softmax(similarity / temperature).

    Args:
        similar: (cells, S) cosine similarities, -inf where a source is out of the window.
        labels: (S, C).
    """
    best, sources = similar.topk(min(rule.top_k, similar.shape[1]), dim=1)
    weights = torch.softmax(best / rule.temperature, dim=1)
    mean = torch.einsum("nk,nkc->nc", weights, labels[sources])
    tied = (similar >= best[:, -1:]).sum(1) > best.shape[1]
    if rule.keep_ties and tied.any():
        kept = similar[tied].masked_fill(similar[tied] < best[tied, -1:], -torch.inf)
        mean[tied] = torch.softmax(kept / rule.temperature, dim=1) @ labels
    return mean
