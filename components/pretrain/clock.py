"""Wall time of training: how fast, and how much of it was spent waiting for data. Never part of a result."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import Tensor

Batch = dict[str, Tensor]


class Clock:
    """Wall time of a window, and how much of it went into waiting for data. Never part of a result."""

    def __init__(self) -> None:
        self._start = self._kept = time.monotonic()
        self._waited = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; counts how long each let us wait."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited += time.monotonic() - start
            yield batch

    def lap(self) -> tuple[float, float]:
        """Seconds and share of waiting since the last call."""
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        result = seconds, self._waited / seconds
        self._start, self._waited = now, 0.0
        return result

    def since_kept(self) -> float:
        return time.monotonic() - self._kept

    def kept(self) -> None:
        self._kept = time.monotonic()
