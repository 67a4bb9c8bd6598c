"""Charts, drawn once and written twice: SVG that takes the page's colours and fonts, PNG for everywhere else.

matplotlib is given colours that stand for roles; in the SVG they are replaced by CSS variables, so that one chart
serves the light and the dark page. No date and no random id is written: equal data, equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (readable with colour-blind eyes), the untrained baseline in grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5cc0", "#a3593b", "#5b6b00", "#b0004e")
GREY = "#8a8f98"
INK, RULE = "#1b2021", "#d7d9dc"  # text; grid lines
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "longtake",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
CHART_WIDTH_IN, CURVE_HEIGHT_IN, ROW_IN, FRAME_IN = 4.6, 2.5, 0.3, 0.75
LANES = 0.6  # share of a row's height over which the runs' dots are spread

Curve = tuple[Sequence[float], Sequence[float]]


def colours(runs: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A colour for every run, the same in all charts."""
    others = [run for run in runs if run != baseline]
    return {run: PALETTE[i % len(PALETTE)] for i, run in enumerate(others)} | ({baseline: GREY} if baseline else {})


def curve_chart(curves: Mapping[str, Curve], hues: Mapping[str, str]) -> Figure:
    """One quantity over the steps of training, a line a run; a single point is drawn as one."""
    figure, axes = _empty(CURVE_HEIGHT_IN)
    for run, (steps, values) in curves.items():
        axes.plot(steps, values, color=hues[run], linewidth=1.8, marker="o" if len(steps) < 3 else "", label=run)
    axes.set_xlabel("step")
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01)
    return figure


def dot_chart(
    details: Mapping[str, Mapping[str, float]], labels: Sequence[str], metric: str, hues: Mapping[str, str]
) -> Figure:
    """One row a class or sequence, one dot a run: what differs is seen as distance."""
    figure, axes = _empty(FRAME_IN + ROW_IN * len(labels))
    for y, label in enumerate(labels):
        known = [of_run[label] for of_run in details.values() if label in of_run]
        axes.plot([min(known), max(known)], [y, y], color=RULE, linewidth=3, solid_capstyle="round", zorder=1)
    for lane, (run, of_run) in enumerate(details.items()):  # a lane a run, so that equal values hide no dot
        shift = (lane - (len(details) - 1) / 2) * LANES / len(details)
        rows = [y for y, label in enumerate(labels) if label in of_run]
        values, at = [of_run[labels[y]] for y in rows], [y + shift for y in rows]
        axes.scatter(values, at, s=30, color=hues[run], label=run, zorder=2, linewidths=0)
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(metric)
    return figure


def _short(label: str, most: int = 22) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _empty(height_in: float) -> tuple[Figure, Axes]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(CHART_WIDTH_IN, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, hues: Mapping[str, str]) -> str:
    """The chart as an `<svg>` element for the page.

    Args:
        name: told to screen readers, and keeps the ids of several charts in one page apart.
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{slug(name)}-", svg)
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    for run, hue in hues.items():
        svg = svg.replace(hue, f"var(--run-{slug(run)})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_plain(name)}" ', 1).strip()


def to_png(figure: Figure, file: Path, title: str, dpi: int) -> None:
    """The chart on white, with title and legend, as a file of its own."""
    from matplotlib import rc_context

    axes = figure.axes[0]
    with rc_context(STYLE):
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
        figure.savefig(file, dpi=dpi, facecolor="white", metadata={"Software": None})


def slug(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-") or "x"


def _plain(text: str) -> str:
    return re.sub(r'[<>&"]', "", text)
