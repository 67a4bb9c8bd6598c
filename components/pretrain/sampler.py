"""The order of samples: a permutation an epoch, the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from components.common.errors import StageError

# The first word of every seed says what it is for; without it, order and views would share random numbers.
ORDER_STREAM, VIEW_STREAM, TIME_STREAM, MASK_STREAM, PLACE_STREAM, OBJECT_STREAM = 1, 2, 3, 4, 5, 6


class Key(NamedTuple):
    """A sample in its batch. With the seed, epoch and sample decide on its frames and views.

    Attributes:
        epoch, sample: what is drawn.
        step: number of the global batch, counted from the start of training.
        place: which of that batch's samples this is, whatever process asks for it.
        batch: how many samples that batch has. These three share masks out over a batch.
    """

    epoch: int
    sample: int
    step: int = 0
    place: int = 0
    batch: int = 1


class EpochSampler:
    """Batches of sample keys for one process, from any step to the last.

    Each epoch visits the samples in a new order and drops the last, incomplete batch. Step `s` is batch
    `s % steps_per_epoch` of epoch `s // steps_per_epoch`, so starting at a step needs no reading up to it. A rank takes
    its slice of each global batch: two processes see exactly the batches of one.

    Args:
        n: samples in the draw.
        batch: global batch size, over all ranks.
        seed: seed of the order.
        steps: the last step (exclusive), counted from the start of training.
        start: the first step.
        rank, world: this process and the number of them.

    Raises:
        StageError: the draw does not fill one batch.
        ValueError: the batch cannot be shared equally by the processes.
    """

    def __init__(
        self, n: int, batch: int, seed: int, *, steps: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if batch % world or not 0 <= rank < world:
            raise ValueError(f"a batch of {batch} cannot be shared by {world} processes (rank {rank})")
        if n < batch:
            raise StageError(f"the draw has {n} samples, one batch needs {batch}", do="lower the batch or add videos")
        self.n, self.batch, self.seed = n, batch, seed
        self.start, self.steps, self.rank, self.world = start, steps, rank, world

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the samples."""
        return self.n // self.batch

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        local = self.batch // self.world
        places = range(self.rank * local, (self.rank + 1) * local)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.start, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.order(epoch)
            first = step % self.steps_per_epoch * self.batch
            yield [Key(epoch, int(order[first + place]), step, place, self.batch) for place in places]

    def order(self, epoch: int) -> np.ndarray:
        """The samples in the order of one epoch: int64 (n,)."""
        return np.random.default_rng((ORDER_STREAM, self.seed, epoch)).permutation(self.n)
