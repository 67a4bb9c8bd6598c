"""Batches from worker processes, in the sampler's order, and how long the trainer waited for them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from components.common.errors import ExitCode, StageError
from components.pretrain.data import Batch, ClipDataset
from components.pretrain.parallel import end_with_trainer
from components.pretrain.sampler import EpochSampler


class Loader:
    """Iterates over batches and counts the seconds that the reader waited for them.

    Attributes:
        wait_s: seconds spent waiting so far.
    """

    def __init__(self, batches: DataLoader[Any]) -> None:
        self._batches, self.wait_s = batches, 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        for _ in range(len(self)):
            began = time.perf_counter()
            batch = _next(batches)
            self.wait_s += time.perf_counter() - began
            yield batch


def _next(batches: Iterator[Batch | StageError]) -> Batch:
    try:
        batch = next(batches)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        what = f"a loader worker died, {str(error).splitlines()[0]}"
        do = "give the machine more memory or shared memory (/dev/shm), or use fewer workers"
        raise StageError(what, do=do, code=ExitCode.NO_ROOM) from None
    if isinstance(batch, StageError):
        raise batch
    return batch


def make_loader(
    dataset: ClipDataset,
    sampler: EpochSampler,
    workers: int,
    device: torch.device,
    prefetch_batches: int = 2,
    start_method: str = "forkserver",
) -> Loader:
    """A loader over the sampler's batches, in the sampler's order whatever the number of workers.

    One pass covers all of training, across epochs: workers are started once and never wait for an epoch's end.

    Args:
        workers: processes beside this one; 0 does the work here, between steps.
        device: where batches will go; for CUDA they arrive in pinned memory.
        prefetch_batches: batches each worker keeps ready.
        start_method: how workers start. Forking a process that holds CUDA or threads of its own may deadlock, so it is
            a clean server that forks.
    """
    options: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload([__name__])  # torch and OpenCV are imported once, not once a worker
        options = {"prefetch_factor": prefetch_batches, "multiprocessing_context": context}
    batches = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        worker_init_fn=end_with_trainer if workers else None,
        collate_fn=_as_is,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
        **options,
    )
    return Loader(batches)


def _as_is(batch: Any) -> Any:
    """Batches leave the dataset whole; there is nothing to collate."""
    return batch
