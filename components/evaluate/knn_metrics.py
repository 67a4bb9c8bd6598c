"""Weighted k-nearest-neighbour classification, streamed over the training features.

Wu et al., "Unsupervised feature learning via non-parametric instance discrimination" (CVPR 2018), section 3.4, as
DINO (arXiv:2104.14294) uses it: votes weighted by exp(cosine / temperature).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_EXPONENT = 80.0  # exp of it still leaves room for a sum in float32


def nearest(queries: Tensor, chunks: Iterable[Tensor], k: int, query_rows: int) -> tuple[Tensor, Tensor]:
    """The k most similar training rows of every query.

    Args:
        queries: (Q, D), any scale.
        chunks: training features (N_i, D), one chunk in memory at a time; rows are numbered through.
        k: neighbours, at most the number of training rows.
        query_rows: queries compared at once; the similarity matrix never exceeds query_rows x N_i.

    Returns:
        cosine similarities (Q, k) in falling order and row numbers (Q, k); of equal ones the lower row comes first.
    """
    parts = list(F.normalize(queries, dim=1).split(query_rows))
    best = [(part.new_zeros(len(part), 0), torch.zeros(len(part), 0, dtype=torch.int64)) for part in parts]
    start = 0
    for chunk in chunks:
        train = F.normalize(chunk.to(queries.device), dim=1)
        for i, part in enumerate(parts):
            values, rows = top_k(part @ train.T, min(k, len(train)))
            best[i] = _merge(best[i], (values, rows.cpu() + start), k)
        start += len(train)
    return torch.cat([values for values, _ in best]).cpu(), torch.cat([rows for _, rows in best])


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Largest k of each row of (Q, N) with their columns, ties in order of column (torch.topk leaves it open)."""
    found, columns = values.topk(k, dim=1)
    columns, order = columns.sort(dim=1)
    found, order = found.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    tied = (values >= found[:, -1:]).sum(1) > k  # more candidates than places: topk may have picked any of them
    if tied.any():
        sorted_values, sorted_columns = values[tied].sort(dim=1, descending=True, stable=True)
        found[tied], columns[tied] = sorted_values[:, :k], sorted_columns[:, :k]
    return found, columns


def votes(similarities: Tensor, labels: Tensor, n_classes: int, temperature: float) -> Tensor:
    """(Q, C) sums of exp(similarity / temperature) over the neighbours (Q, k) of each class."""
    scaled = similarities / temperature
    if 1 / temperature > LARGEST_EXPONENT:
        scaled = scaled - scaled.amax(1, keepdim=True)  # the same order of classes, within the range of floats
    weights = scaled.exp()
    return weights.new_zeros(len(labels), n_classes).scatter_add_(1, labels, weights)


def ranking(class_votes: Tensor, depth: int) -> Tensor:
    """(Q, depth) classes by falling vote, the lower class first where votes are equal."""
    return class_votes.sort(dim=1, descending=True, stable=True).indices[:, :depth]


def usable(ks: Iterable[int], n_train: int) -> Iterator[int]:
    """The wanted k, none larger than the training set, each once."""
    yield from dict.fromkeys(min(k, n_train) for k in ks)


def _merge(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    values, rows = torch.cat([old[0], new[0]], dim=1), torch.cat([old[1].cpu(), new[1]], dim=1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows.gather(1, order.cpu())[:, :k]
