"""Plots of a head's training, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMED = 24  # classes that find room on an axis

Line = tuple[Sequence[float], Sequence[float]]  # x, y


def draw_lines(file: Path, lines: Mapping[str, Line], x: str, y: str, title: str, log_y: bool = False) -> None:
    """One panel of named lines."""
    figure, (axes,) = _panels(1)
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, label=name, linewidth=1.2)
    _dress(axes, x, y, title)
    axes.set_yscale("log" if log_y else "linear")
    if len(lines) > 1:
        axes.legend(fontsize=6, ncols=2, frameon=False)
    _save(figure, file)


def draw_sweep(
    file: Path,
    accuracy: NDArray[np.float64],
    rates: Sequence[float],
    confusion: NDArray[np.int64],
    classes: Sequence[str],
    title: str,
) -> None:
    """Two panels: held-out accuracy by epoch, a line for each rate, dark for small ones; and the confusion matrix.

    Args:
        accuracy: (epochs, rates), shares.
        confusion: (C, C) counts [true, predicted]; rows are drawn as shares, named where they are few.
    """
    figure, (left, right) = _panels(2)
    colours = _colours(len(rates))
    for i, rate in enumerate(rates):
        left.plot(np.arange(1, len(accuracy) + 1), accuracy[:, i], color=colours[i], linewidth=1, label=f"{rate:g}")
    _dress(left, "epoch", "held-out top-1", title)
    if len(rates) <= 12:
        left.legend(fontsize=6, ncols=2, frameon=False, title="lr", title_fontsize=6)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    drawn = right.imshow(shares, cmap="magma", vmin=0, interpolation="nearest")
    figure.colorbar(drawn, ax=right, shrink=0.8).ax.tick_params(labelsize=7)
    if len(classes) <= NAMED:
        right.set_xticks(range(len(classes)), classes, rotation=90)
        right.set_yticks(range(len(classes)), classes)
    _dress(right, "predicted class", "true class", "share of a true class, test pictures")
    _save(figure, file)


def _panels(n: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * n, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, n, squeeze=False)[0]


def _colours(n: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    return [colormaps["viridis"](i / max(1, n - 1)) for i in range(n)]


def _dress(axes: Any, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, format="png", metadata={"Software": None})
