"""Label propagation over a clip: every cell copies the labels of the cells it resembles most in earlier frames.

Jabri et al. (arXiv:2006.14613), in the forms that papers quote: that of DINO's released evaluation and that of
videowalk, CropMAE and T-CoRe. Nothing is learnt. Memory holds the context only, however long the clip is.

The released codes compare a frame with every cell of its context and pick the k best of tens of thousands. Here a strip
of the frame meets only the columns it can reach, and the k best are looked for cell by cell first: k cells whose best
frame is most alike hold them all. Copies of the first frame are compared once and counted as often as they stand in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
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
        block_cells: about how many target cells are worked on at once; speed and memory, not result.
    """

    context_frames: int
    radius_cells: int
    window: Literal["square", "disk"]
    restrict_first: bool
    fill_with_first: bool
    top_k: int
    keep_ties: bool
    temperature: float
    block_cells: int = 256


class Memory:
    """The frames that a label may come from within the window.

    Attributes:
        features: (U, V, S, D) unit features of S frames, cell by cell, so that a strip of cells is one block.
        labels: (U, V, S, C).
        votes: (n,) slots as often as they vote: the first frame once for every frame that it stands in for.
    """

    def __init__(self, first: Tensor, labels: Tensor, rule: Rule) -> None:
        self.rule = rule
        self.recent: deque[int] = deque()  # slots, oldest first
        self.first_slot = 0 if self._first_votes() else None
        n_slots = int(self.first_slot is not None)
        self.features, self.labels = (t[:, :, None].repeat(1, 1, n_slots, 1) for t in (first, labels))
        self._count_votes()

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in a frame; the oldest one beyond the context is forgotten."""
        if not self.rule.context_frames:
            return
        full = len(self.recent) == self.rule.context_frames
        slot = self.recent.popleft() if full else self.features.shape[2]
        self.recent.append(slot)
        if self.first_slot is not None and not self._first_votes():  # it stands in for no frame any more
            self.recent[-1] = slot = self.first_slot
            self.first_slot = None
        if slot < self.features.shape[2]:
            self.features[:, :, slot], self.labels[:, :, slot] = features, labels
        else:
            self.features = torch.cat([self.features, features[:, :, None]], dim=2)
            self.labels = torch.cat([self.labels, labels[:, :, None]], dim=2)
        self._count_votes()

    def _first_votes(self) -> int:
        missing = self.rule.context_frames - len(self.recent) if self.rule.fill_with_first else 0
        return int(self.rule.restrict_first) + missing

    def _count_votes(self) -> None:
        firsts = [] if self.first_slot is None else [self.first_slot] * self._first_votes()
        self.votes = torch.tensor([*firsts, *self.recent], dtype=torch.long, device=self.features.device)


def propagate(features: Iterable[Tensor], first_labels: Tensor, rule: Rule) -> Iterator[Tensor]:
    """Soft labels (h, w, C) of every frame but the first.

    Args:
        features: feature grids (h, w, D), frame by frame; consumed as a stream.
        first_labels: (h, w, C) of the first frame.
    """
    frames = iter(features)
    first = F.normalize(next(frames), dim=-1)
    turned = first.shape[1] > first.shape[0]  # strips are cut across the longer side: each can reach a smaller share

    def turn(grid: Tensor) -> Tensor:
        return grid.transpose(0, 1).contiguous() if turned else grid

    first, first_labels = turn(first), turn(first_labels)
    memory = Memory(first, first_labels, rule)
    far = None if rule.restrict_first else (first.flatten(0, 1), first_labels.flatten(0, 1))
    for frame in frames:
        target = turn(F.normalize(frame, dim=-1))
        labels = predict(target, memory, far)
        memory.add(target, labels)
        yield turn(labels)


def predict(target: Tensor, memory: Memory, far: tuple[Tensor, Tensor] | None) -> Tensor:
    """Soft labels (U, V, C) of one frame with unit features (U, V, D).

    Args:
        target: the frame.
        memory: sources within the window.
        far: features (N, D) and labels (N, C) of sources to which no window applies.
    """
    length, width = target.shape[:2]
    step = max(1, memory.rule.block_cells // width)
    strips = [_strip(target, memory, far, x, min(x + step, length)) for x in range(0, length, step)]
    return torch.cat(strips).view(length, width, -1)


def _strip(target: Tensor, memory: Memory, far: tuple[Tensor, Tensor] | None, start: int, stop: int) -> Tensor:
    """Labels (T, C) of the target's cells in rows start..stop."""
    rule, dim = memory.rule, target.shape[2]
    queries = target[start:stop].reshape(-1, dim).T
    reach = rule.radius_cells - (rule.window == "disk")  # a distance below the radius
    low, high = max(0, start - reach), min(len(target), stop + reach)
    n_slots = memory.features.shape[2]
    high = high if n_slots else low  # nothing within the window to ask, yet
    n_cells = (high - low) * target.shape[1]
    similar = (memory.features[low:high].reshape(-1, dim) @ queries).view(n_cells, n_slots, queries.shape[1])
    barred = ~allowed(range(start, stop), range(low, high), target.shape[1], rule, target.device)
    best = similar.amax(1).masked_fill_(barred, -torch.inf) if n_slots else similar.view(0, queries.shape[1])
    labels, best = memory.labels[low:high].flatten(0, 2), best.T
    if far is not None:
        best, labels = torch.cat([best, queries.T @ far[0].T], dim=1), torch.cat([labels, far[1]])
    return vote(best.contiguous(), similar, memory.votes, labels, rule)


@lru_cache(maxsize=64)
def allowed(rows: range, source_rows: range, width: int, rule: Rule, device: torch.device | str = "cpu") -> Tensor:
    """bool (source cells, target cells) of two blocks of rows: which source lies in the window of which target."""
    dy = torch.tensor(source_rows)[:, None] - torch.tensor(rows)
    dx = torch.arange(width)[:, None] - torch.arange(width)
    if rule.window == "square":
        near = (dy.abs() <= rule.radius_cells)[:, None, :, None] & (dx.abs() <= rule.radius_cells)[None, :, None, :]
    else:
        near = dy.square()[:, None, :, None] + dx.square()[None, :, None, :] < rule.radius_cells**2
    return near.reshape(len(source_rows) * width, len(rows) * width).to(device)


def vote(best: Tensor, similar: Tensor, votes: Tensor, labels: Tensor, rule: Rule) -> Tensor:
    """Mean label (T, C) of each target's top-k sources, weighted by softmax(similarity / temperature).

    Args:
        best: (T, cells + N) similarity of each cell's most similar frame, -inf out of the window, and of N sources
            to which no window applies.
        similar: (cells, S, T) similarities of the cells' frames.
        votes: (n,) slots as often as they vote.
        labels: (cells * S + N, C).
    """
    groups = best.topk(min(rule.top_k, best.shape[1]), dim=1).indices
    ranked, sources = _candidates(groups, best, similar, votes)
    k = min(rule.top_k, ranked.shape[1])
    chosen, places = ranked.topk(k, dim=1)
    weights = torch.softmax(chosen / rule.temperature, dim=1)
    mean = torch.einsum("tk,tkc->tc", weights, labels[sources.gather(1, places)])
    if rule.keep_ties:
        least = chosen[:, -1:]
        tied = ((best >= least) & (best > -torch.inf)).sum(1) > groups.shape[1]
        tied |= ((ranked >= least) & (ranked > -torch.inf)).sum(1) > k
        for t in tied.nonzero().flatten():  # rare: sources exactly as similar as the k-th
            mean[t] = _vote_of_ties(best[t : t + 1], similar[..., t : t + 1], votes, labels, least[t], rule)
    return mean


def _candidates(groups: Tensor, best: Tensor, similar: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities (T, G * n) and label rows (T, G * n) of the frames of G cells; the k best sources are among them.

    A source of no window is a cell of one frame: its other places are -inf.
    """
    n_cells, n_slots, n_targets = similar.shape
    windowed = groups < n_cells
    if not len(votes):
        return best.gather(1, groups), groups
    cells = groups.clamp(max=max(n_cells - 1, 0))
    found = similar[cells, :, torch.arange(n_targets, device=best.device)[:, None]][..., votes]  # (T, G, n)
    barred = windowed & (best.gather(1, groups) == -torch.inf)
    found = found.masked_fill((~windowed | barred)[..., None], -torch.inf)
    found[..., 0] = torch.where(windowed, found[..., 0], best.gather(1, groups))
    rows = torch.where(
        windowed[..., None], cells[..., None] * n_slots + votes, (groups + n_cells * (n_slots - 1))[..., None]
    )
    return found.flatten(1), rows.flatten(1)


def _vote_of_ties(best: Tensor, similar: Tensor, votes: Tensor, labels: Tensor, least: Tensor, rule: Rule) -> Tensor:
    """Mean label (C,) of all sources of one target that are at least `least` similar."""
    groups = (best[0] >= least).logical_and(best[0] > -torch.inf).nonzero().T
    ranked, sources = _candidates(groups, best, similar, votes)
    kept = ranked.masked_fill(ranked < least, -torch.inf)
    return (torch.softmax(kept / rule.temperature, dim=1)[..., None] * labels[sources]).sum(1)[0]
