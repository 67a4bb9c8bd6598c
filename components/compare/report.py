"""From the folders of a finished pipeline to report/: the page, the leaderboard, the plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from components.common.outputs import write_text
from components.common.scores import Cell, Score, read_cells
from components.compare import plots
from components.compare.board import Board, build
from components.compare.citations import cited
from components.compare.config import CompareParams
from components.compare.material import (
    Model,
    contact_sheet,
    pictures_in,
    read_corpus,
    read_details,
    read_model,
    spread,
    told_apart,
)
from components.compare.page import Album, TaskSection, dark, inlined, lead, metric_table, model_view, render
from components.compare.tables import as_markdown, as_text


class Report:
    """Reads everything once, then writes the parts."""

    def __init__(self, metrics: Path, details: Path, models: Path, params: CompareParams) -> None:
        self.params, self.details = params, details
        self.cells = read_cells(metrics)
        folders = sorted(folder for folder in models.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        self.models = {folder.name: read_model(folder) for folder in folders}
        self.board = self._board()
        if not self.board.columns:
            why = f" ({self.cells[0].reason})" if self.cells else ""
            raise StageError(f"no usable metrics{why}", where=metrics, do="run evaluate first")
        self.hues = plots.colours(
            [row.run for row in sorted(self.board.rows, key=lambda r: r.run)], self.board.baseline
        )

    def _board(self) -> Board:
        runs = [*self.params.methods, *self.models]
        return build(self._fresh(), runs, self.params.tasks, self.params.baseline)

    def _fresh(self) -> list[Cell]:
        """Cells whose score belongs to the weights that the model folder holds now."""
        return [self._checked(cell) for cell in self.cells]

    def _checked(self, cell: Cell) -> Cell:
        model = self.models.get(cell.run)
        if cell.score is None or model is None or model.sha256 in ("", cell.score.encoder_sha256):
            return cell
        return Cell(
            cell.run, cell.task, reason="measured on other weights than the model folder holds; evaluate it again"
        )

    def write(self, out: Path, frames: Path | None = None, index: Path | None = None) -> None:
        """Write index.html, leaderboard.{json,md,txt} and plots/*.png into `out`."""
        (out / "plots").mkdir()
        write_text(out / "leaderboard.json", json.dumps(self.board.to_json(), indent=2, sort_keys=True) + "\n")
        write_text(out / "leaderboard.md", as_markdown(self.board))
        write_text(out / "leaderboard.txt", as_text(self.board))
        album = Album(self.params)
        page = render(
            title=self.params.title,
            registered=self.params.registered_model,
            lead=lead(self.board),
            board=self.board,
            themes={"light": self.hues, "dark": dark(self.hues, plots.PALETTE)},
            tasks=[self._task(task, out, album) for task in dict.fromkeys(c.task for c in self.board.columns)],
            charts=self._curves(out),
            charted=[row.run for row in self.board.rows if self._model(row.run).curves],
            facts=read_corpus(frames, index),
            sheet=inlined(sheet) if (sheet := contact_sheet(index)) else "",
            models=[model_view(self._model(row.run), album) for row in self.board.rows],
            load=next((model.load for model in self.models.values() if model.load), ""),
            commands=self._commands(),
            citations=self._citations(),
        )
        write_text(out / "index.html", page)

    def _model(self, run: str) -> Model:
        return self.models.get(run, Model(run))

    def scores(self, task: str) -> dict[str, Score]:
        """run -> score, in the order of the leaderboard."""
        found = {cell.run: cell.score for cell in self._fresh() if cell.task == task and cell.score is not None}
        return {row.run: found[row.run] for row in self.board.rows if row.run in found}

    def _task(self, task: str, out: Path, album: Album) -> TaskSection:
        scores = self.scores(task)
        columns = [column for column in self.board.columns if column.task == task]
        section = TaskSection(task, columns, [metric_table(column, scores) for column in columns])
        main = {run: score for run, score in scores.items() if score.setting == columns[0].setting}
        details = {run: read_details(self.details / f"{run}-{task}", score) for run, score in main.items()}
        details = {run: values for run, values in details.items() if values}
        if details:
            self._chart(section, details, columns[0].score.primary, out)
        section.pictures = self._pictures(task, album)
        return section

    def _chart(self, section: TaskSection, details: Mapping[str, Mapping[str, float]], metric: str, out: Path) -> None:
        total = len({label for of_run in details.values() for label in of_run})
        details = told_apart(details)
        labels = spread(details, self.params.chart_rows)
        figure = plots.dot_chart(details, labels, metric, self.hues)
        section.chart, section.charted = (
            plots.to_svg(figure, f"{section.name} by class or sequence", self.hues),
            list(details),
        )
        plots.to_png(figure, out / "plots" / f"{section.name}.png", f"{section.name}: {metric}", self.params.png_dpi)
        left = len({label for of_run in details.values() for label in of_run})
        if len(labels) < left:
            section.cut = f"The {len(labels)} of {total} on which the encoders differ most."
        elif left < total:
            section.cut = f"{total - left} more, on which all of them score 0."

    def _pictures(self, task: str, album: Album) -> dict[str, list[dict[str, str]]]:
        """Pictures of one name, side by side over the runs."""
        by_name: dict[str, list[tuple[str, Path]]] = {}
        for row in self.board.rows:
            for file in pictures_in(self.details / f"{row.run}-{task}"):
                by_name.setdefault(file.stem, []).append((row.run, file))
        chosen = sorted(by_name)[: self.params.pictures_per_task]
        return {name: [album.show(run, file, f"{name} of {run}") for run, file in by_name[name]] for name in chosen}

    def _curves(self, out: Path) -> list[dict[str, str]]:
        """A chart a quantity: the loss and the collapse guards first, schedules last."""
        runs = [row.run for row in self.board.rows if self._model(row.run).curves]
        names = dict.fromkeys(name for run in runs for name in self._model(run).curves)
        charts = []
        for name in sorted(names, key=_importance)[: self.params.curves]:
            known = {run: self._model(run).curves[name] for run in runs if name in self._model(run).curves}
            figure = plots.curve_chart(known, self.hues)
            charts.append({"name": name, "svg": plots.to_svg(figure, f"{name} over training", self.hues)})
            plots.to_png(figure, out / "plots" / f"curve-{plots.slug(name)}.png", name, self.params.png_dpi)
        return charts

    def _commands(self) -> str:
        runs = [row.run for row in self.board.rows]
        lines = [f"dvc repro pretrain@{run}" for run in runs if run in self.models]
        lines += [
            f"dvc repro evaluate@{run}-{column.task}"
            for run in runs
            for column in self.board.columns
            if not column.note
        ]
        return "\n".join([*lines, "dvc repro compare"])

    def _citations(self) -> list[tuple[str, str, str]]:
        methods = list(dict.fromkeys(self._model(row.run).method for row in self.board.rows))
        return cited(methods, list(dict.fromkeys(column.task for column in self.board.columns)))

    def summary(self) -> dict[str, float]:
        """`task/run` -> primary metric and how many evaluations failed, for the pipeline's MLflow run."""
        columns: dict[str, Any] = {}
        for column in self.board.columns:
            columns.setdefault(column.task, column)
        cells = [(c.task, row.run, row.entries[c.key].value) for c in columns.values() for row in self.board.rows]
        told = {f"{task}/{run}": value for task, run, value in cells if value is not None}
        return {**told, "failed_evaluations": float(len(self.failed()))}

    def failed(self) -> list[str]:
        """`<run>-<task>` of every evaluation without a usable score."""
        return sorted(f"{cell.run}-{cell.task}" for cell in self._fresh() if cell.score is None)


FIRST = ("loss", "rankme", "teacher_entropy", "feature_std")
LAST = ("lr", "weight_decay", "momentum")


def _importance(name: str) -> tuple[int, str]:
    for place, word in enumerate(FIRST):
        if name == word or (place and word in name):
            return place, name
    return (len(FIRST) + 1 if name in LAST else len(FIRST)), name
