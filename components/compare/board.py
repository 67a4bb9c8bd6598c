"""The leaderboard: runs by tasks. A column holds one task measured in one way on one data set, never a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.common.scores import Cell, Score

MOST_COLUMNS = 7  # evaluations beside each other in a leaderboard; more of them stand below each other


@dataclass(frozen=True)
class Column:
    """One task in one setting. `note` says what sets it apart where a task has several columns."""

    task: str
    setting: str
    score: Score  # any one of the column; all agree in everything but the value
    note: str = ""

    @property
    def key(self) -> str:
        return f"{self.task}:{self.setting[:8]}" if self.note else self.task


@dataclass(frozen=True)
class Entry:
    """A run's place in a column: a value, or why there is none (`failed`, `missing`, `other setting`)."""

    status: str
    value: float | None = None
    delta: float | None = None
    rank: float | None = None
    best: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One run. `mean_rank` is over the first column of every task, for runs that have a value in all of them."""

    run: str
    entries: dict[str, Entry]
    mean_rank: float | None = None


@dataclass(frozen=True)
class Board:
    columns: list[Column]
    rows: list[Row]
    baseline: str | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def tall(self) -> bool:
        """Whether evaluations are shown as rows and runs as columns: a page or terminal is wide enough for few."""
        return len(self.columns) > MOST_COLUMNS

    def to_json(self) -> dict[str, Any]:
        """For programs: leaderboard.json."""
        columns = [
            {
                "key": c.key,
                "task": c.task,
                "note": c.note,
                "higher_is_better": c.score.higher_is_better,
                **_setting(c.score),
            }
            for c in self.columns
        ]
        rows = [
            {"run": r.run, "mean_rank": r.mean_rank, "cells": {k: _entry(e) for k, e in r.entries.items()}}
            for r in self.rows
        ]
        return {"baseline": self.baseline, "columns": columns, "rows": rows, "troubles": self.troubles}


def build(cells: Sequence[Cell], runs: Iterable[str], tasks: Iterable[str], baseline: str) -> Board:
    """Arrange cells into a leaderboard, best mean rank first.

    Args:
        cells: what was measured, or failed.
        runs: rows to show besides those of `cells`.
        tasks: columns to show besides those of `cells`, in this order.
        baseline: run that `Entry.delta` is taken to.
    """
    names = list(dict.fromkeys([*runs, *(cell.run for cell in cells)]))
    order = list(dict.fromkeys([*tasks, *sorted({cell.task for cell in cells})]))
    columns = [column for task in order for column in _columns(task, cells)]
    found = {(cell.run, cell.task): cell for cell in cells}
    filled = {column.key: _fill(column, names, found, baseline) for column in columns}
    bare = [task for task in order if task not in {column.task for column in columns}]
    main = [next(c for c in columns if c.task == task).key for task in order if task not in bare]
    rows = [
        Row(run, {c.key: filled[c.key][run] for c in columns}, _mean([filled[k][run].rank for k in main]))
        for run in names
    ]
    rows.sort(key=lambda row: (row.mean_rank is None, row.mean_rank or 0.0, row.run))
    return Board(columns, rows, baseline if baseline in names else None, _troubles(rows, bare, found))


def _columns(task: str, cells: Sequence[Cell]) -> list[Column]:
    """A column a setting, the one with the most runs first."""
    scores = [cell.score for cell in cells if cell.task == task and cell.score is not None]
    counts = {s.setting: sum(o.setting == s.setting for o in scores) for s in scores}
    first = {score.setting: score for score in reversed(scores)}
    settings = sorted(counts, key=lambda setting: (-counts[setting], setting))
    if len(settings) == 1:
        return [Column(task, settings[0], first[settings[0]])]
    return [Column(task, s, first[s], _apart(first[s], [first[o] for o in settings if o != s])) for s in settings]


def _apart(score: Score, others: Sequence[Score]) -> str:
    """The facts that differ between the settings of a task, as this one has them."""
    keys = sorted(
        {
            key
            for other in others
            for key in {**score.facts, **other.facts}
            if score.facts.get(key) != other.facts.get(key)
        }
    )
    return ", ".join(f"{key} {score.facts.get(key)}" for key in keys)


def _fill(column: Column, runs: Sequence[str], found: dict[tuple[str, str], Cell], baseline: str) -> dict[str, Entry]:
    values = {}
    for run in runs:
        cell = found.get((run, column.task))
        if cell is not None and cell.score is not None and cell.score.setting == column.setting:
            values[run] = cell.score.value
    sign = 1.0 if column.score.higher_is_better else -1.0
    best = max((sign * value for value in values.values()), default=0.0)
    return {run: _place(run, values, sign, best, baseline) or _absent(run, column, found) for run in runs}


def _place(run: str, values: dict[str, float], sign: float, best: float, baseline: str) -> Entry | None:
    if run not in values:
        return None
    own = values[run]
    above = sum(sign * value > sign * own for value in values.values())
    equal = sum(value == own for value in values.values())
    delta = own - values[baseline] if baseline in values and run != baseline else None
    return Entry("ok", own, delta, above + (equal + 1) / 2, sign * own == best)


def _absent(run: str, column: Column, found: dict[tuple[str, str], Cell]) -> Entry:
    cell = found.get((run, column.task))
    if cell is None:
        return Entry("missing", reason=f"not evaluated: dvc repro evaluate@{run}-{column.task}")
    if cell.score is None:
        return Entry("failed", reason=cell.reason)
    return Entry("other setting", reason="measured in another way; see the other column")


def _mean(ranks: Sequence[float | None]) -> float | None:
    known = [rank for rank in ranks if rank is not None]
    return sum(known) / len(known) if known and len(known) == len(ranks) else None


def _troubles(rows: Sequence[Row], bare: Sequence[str], found: dict[tuple[str, str], Cell]) -> list[str]:
    """Every failed or missing evaluation, one line each, once."""
    lines = {
        f"{row.run} on {key.partition(':')[0]}: {entry.status}, {entry.reason}"
        for row in rows
        for key, entry in row.entries.items()
        if entry.status in ("missing", "failed")
    }
    for task in bare:
        failed = {f"{run} on {task}: failed, {c.reason}" for (run, t), c in found.items() if t == task}
        lines |= failed or {f"{task}: no run was evaluated"}
    return sorted(lines)


def _setting(score: Score) -> dict[str, Any]:
    names = ("protocol", "primary", "data_variant", "benchmark_hash", "params")
    return {name: getattr(score, name) for name in names}


def _entry(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if value not in (None, "")}
