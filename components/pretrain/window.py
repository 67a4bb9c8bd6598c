"""What happened since the last report, kept on the device: no step waits for a number that only a person reads."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from components.pretrain import guards, parallel
from components.pretrain.method import StepOutput


class Window:
    """Collects the figures of some steps and hands them out once, averaged over processes.

    Reports and checkpoints both happen where a window ends, so nothing in here needs saving.
    """

    def __init__(self, rankme_samples: int) -> None:
        self._per_process = math.ceil(rankme_samples / parallel.world_size())
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self._parts: list[Tensor] = []
        self._features: deque[Tensor] = deque()
        self._spread: dict[str, list[Tensor]] = {}

    def add(self, output: StepOutput, last_step: bool) -> None:
        """Take the figures of one micro-batch; the costly ones only at the window's last step."""
        figures = {"loss": output.loss, **output.terms}
        self._names = list(figures)
        self._parts.append(torch.stack([value.detach().float().reshape(()) for value in figures.values()]))
        features, probs = output.monitors.get("features"), output.monitors.get("teacher_probs")
        if features is not None:
            self._keep(features.detach().float())
        if probs is not None and last_step:
            self._spread.setdefault("entropy", []).append(guards.entropy(probs).mean() / math.log(probs.shape[-1]))
            self._spread.setdefault("mean", []).append(probs.float().mean(0))

    def end_step(self, grad_norm: Tensor) -> None:
        """Close a step: its micro-batches are averaged, as their gradients were."""
        self._rows.append(torch.cat([torch.stack(self._parts).mean(0), grad_norm.float().reshape(1)]))
        self._parts.clear()

    def close(self, first_step: int, lrs: list[float]) -> dict[str, float]:
        """Mean figures of the window's steps, and the collapse monitors of its end; empties the window.

        Raises:
            StageError: a figure was not finite; names the first such step.
        """
        names = [*self._names, "grad_norm"]
        table = parallel.mean(torch.stack(self._rows))
        steps = range(first_step, first_step + len(self._rows))
        guards.check_finite(steps, names, table.tolist(), lrs)  # the window's one wait for the device
        monitors = self._monitors()
        # a teacher can break while the loss still looks well: labels by argmax hide it
        guards.check_finite(steps[-1:], list(monitors), [list(monitors.values())], lrs[-1:])
        row = dict(zip(names, table.double().mean(0).tolist(), strict=True)) | monitors
        self._rows.clear()
        self._features.clear()
        self._spread.clear()
        return row

    def _keep(self, features: Tensor) -> None:
        self._features.append(features)
        while sum(map(len, self._features)) - len(self._features[0]) >= self._per_process:
            self._features.popleft()

    def _monitors(self) -> dict[str, float]:
        row: dict[str, Tensor] = {}
        if self._spread:
            mean = parallel.mean(torch.stack(self._spread["mean"]).mean(0))
            row["teacher_entropy"] = parallel.mean(torch.stack(self._spread["entropy"]).mean())
            row["teacher_spread"] = guards.entropy(mean) / math.log(len(mean))
        if self._features:
            features = parallel.gather(torch.cat(list(self._features)))
            row |= {"feature_std": guards.feature_std(features), "rankme": guards.rankme(features)}
        return {name: float(value) for name, value in row.items()}
