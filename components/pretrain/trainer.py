"""The training loop: one page of plain PyTorch, whatever the method.

Every random draw of a step comes from a seed of (run seed, step, process), and reports and checkpoints happen between
steps only. So a run that was killed goes on from a checkpoint to the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from components.common.errors import ExitCode, StageError
from components.pretrain import parallel, speed
from components.pretrain.budget import Cost
from components.pretrain.checkpoint import CheckpointStore, State
from components.pretrain.clock import Clock
from components.pretrain.config import PretrainParams
from components.pretrain.guards import collapse_sign
from components.pretrain.method import Method, Now
from components.pretrain.optimiser import Clipping, build_optimiser, set_values
from components.pretrain.schedules import Schedule
from components.pretrain.window import Window

Batch = dict[str, Tensor]
Row = dict[str, float]


class Feed(Protocol):
    """Where batches come from."""

    steps_per_epoch: int

    def batches(self, first_step: int, end: int) -> Iterator[Batch]:
        """This process's share of the global batches of steps `first_step` to `end - 1`: normalised, on the device."""


@dataclass(frozen=True)
class Report:
    """What one window of steps looked like.

    Attributes:
        step: optimiser steps done.
        steps: how many of them this window has.
        row: the deterministic figures, as in curves.csv.
        images: source frames seen in this window, over all processes.
        seconds: wall time of the window.
        data_wait: share of it spent waiting for the loader.
        wall_s: wall time of training since step 0, that of resumed runs included.
        flops_per_sample: of one forward and backward pass.
    """

    step: int
    steps: int
    row: Row
    images: int
    seconds: float
    data_wait: float
    wall_s: float
    flops_per_sample: int


def seeded(*parts: int) -> int:
    """A 64-bit seed from a tuple of numbers; neighbours give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class Trainer:
    """A method, its optimiser, and where they stand.

    Args:
        method: on the device already, every process with the same weights.
        params: the run's parameters.
        schedule: its length and values.
        feed: its batches.
        cost: of one sample.
        store: checkpoints; None keeps none.
        warn: called with a line that a person should see.
    """

    def __init__(
        self,
        method: Method,
        params: PretrainParams,
        schedule: Schedule,
        feed: Feed,
        cost: Cost,
        store: CheckpointStore | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.method, self.params, self.schedule, self.feed = method, params, schedule, feed
        self.cost, self.store, self.warn = cost, store, warn
        self.device = next(method.parameters()).device
        self.optimiser, self.clip = build_optimiser(method, params.trainer), Clipping(method, params.trainer)
        self.step = 0  # optimiser steps done
        self.wall_s = 0.0  # seconds that training took so far
        self.curves: list[Row] = []
        self._saved_at: int | None = None  # step of the last checkpoint
        self._last_batch: Batch | None = None

    def train(self, report: Callable[[Report], None] = lambda _: None) -> None:
        """Train from where this run stands to its end; `report` is called after every window."""
        if self.step >= self.schedule.total:
            return
        trainer = self.params.trainer
        window, clock = Window(self.params.guards.rankme_samples), Clock()
        model = self._parallel()
        for batch in clock.timed(self.feed.batches(self.step, self.schedule.total)):
            self._one_step(model, batch, window)
            if self.step % trainer.log_every_steps == 0 or self.step == self.schedule.total:
                steps = self.step - (int(self.curves[-1]["step"]) if self.curves else 0)
                row = self._close(window, steps)
                report(self._report(row, steps, *clock.lap()))
                self._keep(clock)
            self._last_batch = batch

    def _one_step(self, model: torch.nn.Module, batch: Batch, window: Window) -> None:
        """One optimiser step of `accumulate` micro-batches, then what follows the student."""
        trainer = self.params.trainer
        torch.manual_seed(seeded(self.params.seed, self.step, parallel.rank()))
        set_values(self.optimiser, self.schedule.at(self.step))
        reports = (self.step + 1) % trainer.log_every_steps == 0 or self.step + 1 == self.schedule.total
        with torch.no_grad(), speed.autocast(self.device, trainer.precision):
            micro_batches = self.method.before_step(split(batch, trainer.accumulate), self.now())
        for i, micro in enumerate(micro_batches):
            last = i + 1 == trainer.accumulate
            alone = model.no_sync if isinstance(model, DistributedDataParallel) and not last else nullcontext
            with alone():  # the processes' gradients meet once a step
                with speed.autocast(self.device, trainer.precision):
                    output = model(micro, self.now())
                (parallel.reach(output.loss, model) / trainer.accumulate).backward()
            window.add(output, last_step=reports)
        window.end_step(self.clip())
        now = self.now()
        for parameter in self.method.frozen_parameters(now):
            parameter.grad = None
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.method.after_step(now)
        self.step += 1

    def now(self) -> Now:
        """The step's values; every micro-batch and process gets an equal generator."""
        generator = torch.Generator().manual_seed(seeded(self.params.seed, self.step))
        return Now(
            step=self.step,
            epoch=self.step // self.schedule.steps_per_epoch,
            epochs=self.schedule.epochs,
            momentum=self.schedule.at(min(self.step, self.schedule.total - 1)).momentum if self.schedule.total else 1.0,
            generator=generator,
            steps_per_epoch=self.schedule.steps_per_epoch,
        )

    def _report(self, row: Row, steps: int, seconds: float, data_wait: float) -> Report:
        self.wall_s += seconds
        images = steps * self.params.trainer.batch_size * self.cost.images
        return Report(self.step, steps, row, images, seconds, data_wait, self.wall_s, self.cost.flops)

    def _close(self, window: Window, steps: int) -> Row:
        """The window's row of the curves; stops the run on NaN and, where asked, on collapse."""
        first = self.step - steps
        values = [self.schedule.at(step) for step in range(first, self.step)]
        try:
            figures = window.close(first, [v.lr for v in values])
        except StageError as error:
            raise StageError(error.what, do=self._advice(), code=error.code) from None
        last, samples = values[-1], self.step * self.params.trainer.batch_size
        row = {
            "step": self.step,
            "epoch": self.step / self.schedule.steps_per_epoch,
            "images_seen": samples * self.cost.images,
            "pflops_seen": samples * self.cost.flops / 1e15,
            "lr": last.lr,
            "weight_decay": last.weight_decay,
            "momentum": last.momentum,
            **figures,
        }
        self.curves.append(row)
        self._check_collapse()
        return row

    def _check_collapse(self) -> None:
        sign = collapse_sign(self.curves, self.params.guards)
        if sign and self.params.guards.stop:
            raise StageError(
                f"the features have collapsed by step {self.step}: {sign}", do=self._advice(), code=ExitCode.STOPPED
            )
        if sign and collapse_sign(self.curves[:-1], self.params.guards) is None:
            self.warn(f"the features look collapsed at step {self.step}: {sign}")

    def _advice(self) -> str:
        saved = "no checkpoint was written before"
        if self._saved_at is not None and self.store is not None:
            saved = f"the last good checkpoint is that of step {self._saved_at}, {self.store.last}"
        return f"{saved}; lower trainer.lr or lengthen trainer.warmup_epochs"

    def _keep(self, clock: Clock) -> None:
        """Write a checkpoint when it is time to; the first process decides, since clocks differ."""
        due = clock.since_kept() >= self.params.trainer.checkpoint_every_s
        if self.store is not None and due and parallel.rank() == 0:
            self.store.save(self.state())
            self._saved_at = self.step
            clock.kept()

    def state(self) -> State:
        """All that the next step depends on, as plain containers and tensors."""
        return {
            "step": self.step,
            "total": self.schedule.total,
            "wall_s": self.wall_s,
            "curves": self.curves,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, state: State | None) -> None:
        """Stand where `state` was taken; nowhere else without one."""
        if state is not None:
            self.method.load_state_dict(state["method"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.wall_s, self.curves = state["step"], state["wall_s"], list(state["curves"])
            self._saved_at = self.step

    def pictures(self) -> dict[str, list[Any]]:
        """The method's pictures of the run's last batch."""
        if not self.schedule.total:
            return {}
        self.method.eval()
        last = self.schedule.total - 1
        batch = self._last_batch or next(self.feed.batches(last, last + 1))
        return self.method.pictures(batch, self.now())

    def _parallel(self) -> torch.nn.Module:
        """The method as it runs on this machine: compiled block by block, gradients averaged over processes."""
        if self.params.trainer.compile:
            speed.compile_blocks(self.method)
        if parallel.world_size() == 1:
            return self.method
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.method, device_ids=devices, forward_sync_buffers=False)


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch as `parts` micro-batches of equal size."""
    chunks = {name: views.chunk(parts) for name, views in batch.items()}
    return [{name: views[i] for name, views in chunks.items()} for i in range(parts)]
