"""Batches for the trainer: views cut by the loader's workers, this process's share, normalised on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from components.common.errors import StageError
from components.common.vit import IMAGENET_MEAN, IMAGENET_STD
from components.pretrain import parallel
from components.pretrain.clock import Batch
from components.pretrain.config import PretrainParams
from components.pretrain.data import ClipDataset, to_device
from components.pretrain.loader import make_loader
from components.pretrain.sampler import EpochSampler


class StoreFeed:
    """The draws of an index over a frame store, epoch after epoch.

    Raises:
        StageError: the batch cannot be shared by the processes and micro-batches, or the draw does not fill one.
    """

    def __init__(self, dataset: ClipDataset, params: PretrainParams, device: torch.device) -> None:
        self.dataset, self.seed, self.trainer, self.device = dataset, params.seed, params.trainer, device
        batch, world, parts = self.trainer.batch_size, parallel.world_size(), self.trainer.accumulate
        if batch % (world * parts):
            raise StageError(
                f"a batch of {batch} cannot be shared by {world} processes in {parts} micro-batches each",
                do="change trainer.batch_size, trainer.processes or trainer.accumulate",
            )
        self.steps_per_epoch = self._sampler(0, 0).steps_per_epoch

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        """One batch a step, from `first_step` to the one before `end`."""
        for batch in make_loader(self.dataset, self._sampler(first_step, end), self.trainer.workers, self.device):
            yield to_device(batch, self.device, IMAGENET_MEAN, IMAGENET_STD)

    def _sampler(self, first_step: int, end: int) -> EpochSampler:
        return EpochSampler(
            len(self.dataset),
            self.trainer.batch_size,
            self.seed,
            steps=end,
            start=first_step,
            rank=parallel.rank(),
            world=parallel.world_size(),
        )
