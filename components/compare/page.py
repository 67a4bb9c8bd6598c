"""The page: everything it shows is in the one file, pictures and charts included."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.scores import Score
from components.compare.board import Board, Column, Entry
from components.compare.material import PICTURES, Model
from components.compare.tables import mean_rank, number

if TYPE_CHECKING:
    from components.compare.config import CompareParams

HERE = Path(__file__).resolve().parent
# The charts' colours on a dark page: the same hues, lighter.
DARK = ("#5fb2e6", "#f08a4b", "#45c39b", "#e2a3c8", "#f2bd4e", "#8fd0f2", "#b6a1ec", "#d39a86", "#a9b95a", "#ee6a95")
DARK_GREY = "#9aa1aa"
NAMED_WINS = 4  # more of the evaluations that the first run wins are counted


@dataclass(frozen=True)
class MetricTable:
    """All figures (metric -> run -> value) of the runs of one column: what was measured in other ways has its own."""

    note: str
    runs: list[str]
    metrics: dict[str, dict[str, float | None]]


@dataclass
class TaskSection:
    """What the page shows of one task."""

    name: str
    columns: list[Column]
    tables: list[MetricTable]
    chart: str = ""
    charted: list[str] = field(default_factory=list)
    cut: str = ""
    pictures: dict[str, list[dict[str, str]]] = field(default_factory=dict)


class Album:
    """Turns picture files into data: addresses, within the limits of the parameters."""

    def __init__(self, params: CompareParams) -> None:
        self.params, self.left = params, params.page_max_mib * 2**20

    def show(self, run: str, file: Path, alt: str) -> dict[str, str]:
        """A picture for the template, captioned with the run or else with `alt`; one too large is named instead."""
        size = file.stat().st_size
        if size > self.params.picture_max_kib * 1024 or size > self.left:
            why = f"{file.parent.name}/{file.name}: {size / 2**20:.1f} MiB, not copied into this page"
            return {"run": run, "data": "", "alt": alt, "why": why}
        self.left -= size
        return {"run": run, "data": inlined(file), "alt": alt, "why": ""}


def inlined(file: Path) -> str:
    """A picture as a data: address."""
    return f"data:{PICTURES[file.suffix.lower()]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def slug(text: str) -> str:
    """A name as an id or CSS variable."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-") or "x"


def dark(hues: Mapping[str, str], palette: Sequence[str]) -> dict[str, str]:
    """The colours of the runs on a dark page."""
    return {run: DARK[palette.index(hue)] if hue in palette else DARK_GREY for run, hue in hues.items()}


def metric_table(column: Column, scores: Mapping[str, Score]) -> MetricTable:
    """The figures of those runs that were measured as the column says, the primary metric first."""
    own = {run: score for run, score in scores.items() if score.setting == column.setting}
    names = dict.fromkeys([column.score.primary, *(name for score in own.values() for name in sorted(score.metrics))])
    metrics = {name: {run: score.metrics.get(name) for run, score in own.items()} for name in names}
    return MetricTable(column.note, list(own), metrics)


def model_view(model: Model, album: Album) -> dict[str, Any]:
    """A model for the template."""
    shown = {"config": model.config, "training": model.figures}
    return {
        "run": model.run,
        "config": model.config,
        "sha256": model.sha256,
        "sentence": _sentence(model),
        "details": json.dumps(shown, indent=2, sort_keys=True),
        "pictures": [album.show("", file, file.stem) for file in model.pictures],
    }


def _sentence(model: Model) -> str:
    args = model.config.get("model_args", {})
    told = [f"method {model.method}", str(model.config.get("architecture", ""))]
    told += [f"{args[key]} {unit}" for key, unit in (("depth", "blocks"), ("embed_dim", "wide")) if key in args]
    told += [f"{args['patch_size']}-pixel patches"] if "patch_size" in args else []
    told += [f"{model.n_weights / 1e6:.2f} M weights"] if model.n_weights else []
    steps = model.figures.get("step")
    return ", ".join(told + ([f"{steps:.0f} training steps"] if steps is not None else []))


def lead(board: Board) -> str:
    """The result in two sentences."""
    placed = [row for row in board.rows if row.mean_rank is not None]
    text = f"{len(board.rows)} encoders judged by {len({c.task for c in board.columns})} evaluations. "
    if not placed:
        return text + "None has a score in every one of them yet."
    top = placed[0]
    wins = list(dict.fromkeys(column.task for column in board.columns if top.entries[column.key].best))
    named = ", ".join(wins) if len(wins) <= NAMED_WINS else f"{len(wins)} of them"
    best = f", best on {named}" if wins else ""
    return text + f"{top.run} leads with a mean rank of {mean_rank(top)}{best}."


def gain(column: Column, entry: Entry) -> str:
    """`up` where the difference to the baseline is for the better, `down` for the worse."""
    delta = (entry.delta or 0.0) * (1 if column.score.higher_is_better else -1)
    return "up" if delta > 0 else "down" if delta < 0 else ""


def render(**content: Any) -> str:
    """Fill the template. Everything is escaped but charts, style and script, which are our own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    env = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tools: dict[str, Callable[..., Any]] = {
        "slug": slug,
        "number": number,
        "breakable": lambda name: Markup(str(escape(name)).replace("_", "_<wbr>")),  # noqa: S704 - escaped
        "mean_rank": mean_rank,
        "gain": gain,
        "parameters": lambda column: json.dumps(column.score.facts, indent=2, sort_keys=True),
    }
    own = {
        name: Markup((HERE / file).read_text(encoding="utf-8"))  # noqa: S704 - files of this package
        for name, file in (("css", "style.css"), ("script", "script.js"))
    }
    return env.get_template("page.html.j2").render(**tools, **own, **content)
