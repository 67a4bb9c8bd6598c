"""The page of results: one table a corpus, one picture of curves a method."""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from bench.learning import RANDOM, Gain, finished, gain, place
from components.common.config import read_yaml
from components.common.outputs import write_text

CURVES = {"loss": "loss", "teacher_entropy": "teacher entropy / log K", "rankme": "RankMe"}
COLOURS = ("tab:blue", "tab:orange")
NAMES = {"knn": "k-NN top-1", "vos": "VOS J&F", "voc_linear": "linear segmentation mIoU"}


def write_page(page: Path, pictures: Path, recipes: Sequence[str], seeds: Sequence[int]) -> None:
    """Write the tables to `page` and `curves_<method>.png` into `pictures`."""
    head = [
        "# Does every method learn?",
        "",
        "Every method, from its start to the end of one small budget, judged before and after; mean over seeds",
        f"{', '.join(map(str, seeds))}, gain with the standard deviation of the gain over the seeds. **Bold**: the",
        "gain is above twice that deviation. A check that each method learns and none collapses, not a comparison of",
        "methods: the budget is minutes on one core. This page is written by the command and not by hand:",
        "",
        "    python -m bench.learning && python -m bench.learning --write docs/results.md docs/images",
        "",
        f"Machine: {platform.processor() or platform.machine()}, torch {torch.__version__}, one thread a training.",
    ]
    tables = [line for recipe in recipes for line in table(place(recipe), recipe, seeds)]
    write_text(page, "\n".join([*head, *tables]) + "\n")
    for method in {name for recipe in recipes for name in finished(place(recipe), seeds)} - {RANDOM}:
        draw(pictures / f"curves_{method}.png", method, recipes, seeds)


def table(folder: Path, recipe: str, seeds: Sequence[int]) -> list[str]:
    params = read_yaml(folder / "params.yaml")
    tasks: list[str] = params["tasks"]
    budget = params["pretrain"]["shared"]["trainer"]["budget"]
    lines = ["", f"## recipes/{recipe}.yaml, {budget['amount']:g} {budget['unit']} a run", ""]
    lines += [
        "| method | " + " | ".join(NAMES.get(task, task) for task in tasks) + " | frames seen | entropy | RankMe |"
    ]
    lines += ["|---" * (len(tasks) + 4) + "|"]
    for method, start in finished(folder, seeds).items():
        if method != RANDOM:
            cells = [cell(gain(folder, method, start, task, seeds)) for task in tasks]
            lines.append(f"| {method} | {' | '.join([*cells, *ends(folder, method, seeds)])} |")
    return lines


def cell(found: Gain) -> str:
    text = f"{found.start:.3f} → {found.end:.3f} ({found.gain:+.3f} ± {found.deviation:.3f})"
    return f"**{text}**" if found.counts else text


def ends(folder: Path, method: str, seeds: Sequence[int]) -> list[str]:
    """Frames seen, teacher entropy and RankMe at the end, over the seeds."""
    last = [curves(folder, method, seed)[-1] for seed in seeds]
    seen = f"{float(last[0].get('images_seen', 'nan')):,.0f}"
    return [
        seen,
        *(spread([float(row[name]) for row in last if row.get(name)]) for name in ("teacher_entropy", "rankme")),
    ]


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else "–"


def curves(folder: Path, method: str, seed: int) -> list[dict[str, str]]:
    with (folder / "models" / f"{method}-{seed}" / "curves.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def draw(file: Path, method: str, recipes: Sequence[str], seeds: Sequence[int]) -> None:
    """Loss, teacher entropy and RankMe over steps: a colour a corpus, a line a seed."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(9, 2.4), dpi=80, layout="constrained")
    for recipe, colour in zip(recipes, COLOURS, strict=False):
        if method not in finished(place(recipe), seeds):
            continue
        for number, seed in enumerate(seeds):
            rows = curves(place(recipe), method, seed)
            for panel, name in zip(panels, CURVES, strict=True):
                line(panel, rows, name, colour, recipe.rpartition("/")[2] if not number else None)
    for panel, title in zip(panels, CURVES.values(), strict=True):
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)


def line(panel: Any, rows: list[dict[str, str]], name: str, colour: str, label: str | None) -> None:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1)
