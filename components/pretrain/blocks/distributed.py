"""Sums over ranks, and nothing at all when training runs in one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of `x` over all ranks, on every rank; `x` itself without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(total: Tensor, count: int) -> Tensor:
    """Mean of all rows on all ranks, given this rank's sum over rows and its number of rows.

    Sums and counts travel together, so ranks with fewer rows weigh less.
    """
    packed = torch.cat([total.flatten(), total.new_tensor([float(count)])])
    packed = sum_over_ranks(packed)
    return (packed[:-1] / packed[-1]).view_as(total)
