"""The page of results: one table a corpus, one picture of curves a method."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from bench.learning import RANDOM, Gain, columns, finished, gain, place
from components.common.config import read_yaml
from components.common.outputs import write_text
from components.pretrain.config import GuardParams
from components.pretrain.guards import collapse_sign

CURVES = {
    "loss": "loss",
    "teacher_entropy": "teacher entropy / log K",
    "teacher_spread": "spread of targets / log K",
    "rankme": "RankMe",
}
ENDS = ("teacher_entropy", "teacher_spread", "feature_std", "rankme")  # columns of the table
COLOURS = ("tab:blue", "tab:orange")
NAMES = {
    "knn": "k-NN, mean of patches",
    "knn_cls": "k-NN, class token",
    "vos": "VOS J&F",
    "voc_linear": "linear segmentation mIoU",
}
DENSE = ("vos", "voc_linear")
NOTES = Path(__file__).with_name("learning_notes.md")  # what was found on the way to the profiles, in words


def write_page(page: Path, pictures: Path, recipes: Sequence[str], seeds: Sequence[int]) -> None:
    """Write the tables to `page` and `curves_<method>.png` into `pictures`."""
    head = [
        "# Does every method learn?",
        "",
        "Every method, from its start to the end of one small budget, judged before and after; mean over seeds",
        f"{', '.join(map(str, seeds))}, and the gain with its standard deviation over the seeds. **Bold**: the gain is",
        "above twice that deviation. A method *learns* when its gains in k-NN and in a dense task are. This page shows",
        "that methods learn and do not collapse; it compares none: the budget is less than a minute of one core. The",
        "tables are written by the command and not by hand:",
        "",
        "    python -m bench.learning && python -m bench.learning --write docs/results.md docs/images",
        "",
        f"Machine: {machine()}, torch {torch.__version__}, one thread a training.",
    ]
    tables = [line for recipe in recipes for line in table(place(recipe), recipe, seeds)]
    write_text(page, "\n".join([*head, *tables]) + "\n\n" + NOTES.read_text(encoding="utf-8"))
    for method in {name for recipe in recipes for name in finished(place(recipe), seeds)} - {RANDOM}:
        draw(pictures / f"curves_{method}.png", method, recipes, seeds)


def table(folder: Path, recipe: str, seeds: Sequence[int]) -> list[str]:
    params = read_yaml(folder / "params.yaml")
    tasks = columns(params)
    budget = params["pretrain"]["shared"]["trainer"]["budget"]
    lines = ["", f"## recipes/{recipe}.yaml, {budget['amount']:g} {budget['unit']} a run", ""]
    titles = ["method", *(NAMES.get(task, task) for task in tasks), "learns", "frames seen", "entropy", "spread"]
    lines += ["| " + " | ".join([*titles, "feature std", "RankMe", "guards"]) + " |"]
    lines += ["|---" * (len(tasks) + 8) + "|"]
    for method, start in finished(folder, seeds).items():
        if method != RANDOM:
            gains = {task: gain(folder, method, start, task, seeds) for task in tasks}
            cells = [*map(cell, gains.values()), "yes" if learns(gains) else "no"]
            lines.append(f"| {method} | {' | '.join([*cells, *ends(folder, method, seeds)])} |")
    return lines


def learns(gains: dict[str, Gain]) -> bool:
    """Gains in k-NN and in a dense task that count."""
    return gains["knn"].counts and any(gains[task].counts for task in DENSE if task in gains)


def machine() -> str:
    """The processor by its name, where Linux tells it, and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(named or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores"


def cell(found: Gain) -> str:
    text = f"{found.start:.3f} → {found.end:.3f} ({found.gain:+.3f} ± {found.deviation:.3f})"
    return f"**{text}**" if found.counts else text


def ends(folder: Path, method: str, seeds: Sequence[int]) -> list[str]:
    """Frames seen, the monitors at the end over the seeds, and what the collapse guards said."""
    rows = [curves(folder, method, seed) for seed in seeds]
    last = [run[-1] for run in rows]
    figures = (spread([float(row[name]) for row in last if row.get(name)]) for name in ENDS)
    return [f"{float(last[0].get('images_seen', 'nan')):,.0f}", *figures, guards(rows)]


def guards(runs: Sequence[list[dict[str, str]]]) -> str:
    """`silent`, or the signs of collapse that the guards' default limits find anywhere in the runs."""
    limits = GuardParams()
    numbers = [[{name: float(value) for name, value in row.items() if value} for row in run] for run in runs]
    signs = [collapse_sign(run[: n + 1], limits) for run in numbers for n in range(len(run))]
    return "; ".join(sorted({sign for sign in signs if sign})) or "silent"


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else "–"


def curves(folder: Path, method: str, seed: int) -> list[dict[str, str]]:
    with (folder / "models" / f"{method}-{seed}" / "curves.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def draw(file: Path, method: str, recipes: Sequence[str], seeds: Sequence[int]) -> None:
    """Loss, teacher entropy and RankMe over steps: a colour a corpus, a line a seed."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(11, 2.3), dpi=65, layout="constrained")
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
