"""Centring: the running mean of the teacher's logits, taken off before its softmax (arXiv:2104.14294, eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.pretrain import parallel


class Centre(nn.Module):
    """EMA of the mean raw teacher logit over everything seen in one optimiser step.

    `add` collects sums during the step's micro-batches, `update` moves the centre once, over all ranks. So
    accumulation and data parallelism give the centre of the one large batch.
    """

    value: Tensor

    def __init__(self, out_dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(out_dim))
        self._sum: Tensor | None = None  # no buffer: it is empty between steps, and no checkpoint should hold it
        self._count = 0

    @torch.no_grad()
    def add(self, logits: Tensor) -> None:
        """Count raw teacher logits (..., K) of one micro-batch."""
        rows = logits.detach().flatten(0, -2).to(self.value.dtype)
        self.add_sum(rows.sum(dim=0), len(rows))

    @torch.no_grad()
    def add_sum(self, total: Tensor, rows: int) -> None:
        """Count `rows` raw teacher logits by their sum (K,), for callers who have the sum without the rows."""
        self._sum = total if self._sum is None else self._sum + total
        self._count += rows

    @torch.no_grad()
    def update(self) -> None:
        """centre <- m * centre + (1 - m) * mean; after the optimiser's step, as the loss used the old centre."""
        if self._sum is None:
            return
        # sums and counts travel together: the mean over all rows, even if one process saw fewer
        sums = parallel.mean(torch.cat([self._sum, self._sum.new_tensor([float(self._count)])]))
        mean = torch.where(sums[-1:] > 0, sums[:-1] / sums[-1:], self.value)  # no rows at all: it stays
        self.value.lerp_(mean, 1.0 - self.momentum)
        self._sum, self._count = None, 0
