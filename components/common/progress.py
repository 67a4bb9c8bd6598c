"""Progress a person can read: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import psutil
from tqdm import tqdm

LINE_EVERY_S = 5.0  # a log of an hour stays under a thousand lines


def memory_gib() -> float:
    """Resident memory of this process and its children, in GiB (shared pages are counted once per process)."""
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return float(total) / 2**30


class Progress:
    """Counts units of work and shows rate, share, time left, memory and whatever fields the caller adds."""

    def __init__(self, total: int, unit: str, label: str = "", done: int = 0) -> None:
        self.total, self.unit, self.label, self.count = total, unit, label, done
        self._first, self._start = done, time.monotonic()
        self._printed = self._start
        self._fields: dict[str, object] = {}
        self._bar = (
            tqdm(total=total, unit=f" {unit}", desc=label, initial=done, dynamic_ncols=True, mininterval=0.5)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    @property
    def rate(self) -> float:
        """Units per second since the start of this process (work done before a resume does not count)."""
        return (self.count - self._first) / max(time.monotonic() - self._start, 1e-9)

    def update(self, n: int = 1, **fields: object) -> None:
        """Add `n` finished units; `fields` are shown beside the bar (floats with four significant digits)."""
        self.count += n
        self._fields.update(fields)
        if self._bar is not None:
            self._bar.set_postfix_str(self._shown(), refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._printed >= LINE_EVERY_S:
            self._line()

    def _shown(self) -> str:
        fields = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self._fields.items()]
        return " | ".join([*fields, f"mem {memory_gib():.2f} GiB"])

    def _line(self) -> None:
        self._printed = time.monotonic()
        left = (self.total - self.count) / self.rate if self.rate > 0 else float("inf")
        eta = f"ETA {int(left // 60)}:{int(left % 60):02d}" if left < 1e6 else "ETA ?"
        head = f"{self.label} " if self.label else ""
        print(
            f"{head}{self.count}/{self.total} {self.unit} | {self.rate:.1f} {self.unit}/s | {eta} | {self._shown()}",
            flush=True,
        )
