"""The leaderboard as text: for a terminal and for markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from components.compare.board import Board, Column, Entry, Row


def as_text(board: Board) -> str:
    """For a terminal; the best in an evaluation is marked with `*`, differences are to the baseline."""
    if board.tall:
        head, body = [["evaluation", "", *(row.run for row in board.rows)]], _tall(board, _shown)
    else:
        head = [["", *(c.key for c in board.columns), ""], ["method", *map(_metric, board.columns), "mean rank"]]
        body = [[row.run, *(_shown(row.entries[c.key]) for c in board.columns), mean_rank(row)] for row in board.rows]
    widths = [max(len(line[i]) for line in [*head, *body]) for i in range(len(head[0]))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_aligned(line, widths) for line in head] + [rule] + [_aligned(line, widths) for line in body]
    return "\n".join([*lines, "", *footnotes(board)]).rstrip() + "\n"


def as_markdown(board: Board) -> str:
    """For a README or a pull request; the best in an evaluation is bold."""
    if board.tall:
        head, body = ["evaluation", "metric", *(row.run for row in board.rows)], _tall(board, _bold)
    else:
        head = ["method", *(f"{column.key} {_metric(column)}" for column in board.columns), "mean rank"]
        body = [[row.run, *(_bold(row.entries[c.key]) for c in board.columns), mean_rank(row)] for row in board.rows]
    lines = ["| " + " | ".join(line) + " |" for line in [head, ["---", *["---:"] * (len(head) - 1)], *body]]
    return "\n".join([*lines, "", *(f"- {note}" for note in footnotes(board))]).rstrip() + "\n"


def _tall(board: Board, shown: Callable[[Entry], str]) -> list[list[str]]:
    """A line an evaluation, and the mean ranks."""
    lines = [[c.key, _metric(c), *(shown(row.entries[c.key]) for row in board.rows)] for c in board.columns]
    return [*lines, ["mean rank", "", *map(mean_rank, board.rows)]]


def footnotes(board: Board) -> list[str]:
    """What each column is, what the differences are to, what is absent and why."""
    notes = [
        f"{c.key}: {c.score.protocol}; {c.score.data_variant}" + (f"; {c.note}" if c.note else "")
        for c in board.columns
    ]
    if board.baseline:
        notes.append(f"(+/-) difference to '{board.baseline}'")
    return [*notes, *board.troubles]


def number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def mean_rank(row: Row) -> str:
    return "-" if row.mean_rank is None else f"{row.mean_rank:.2f}"


def _metric(column: Column) -> str:
    return column.score.primary + ("" if column.score.higher_is_better else " (lower is better)")


def _shown(entry: Entry) -> str:
    if entry.value is None:
        return entry.status if entry.status != "other setting" else "-"
    delta = "" if entry.delta is None else f" ({entry.delta:+.3f})"
    return f"{'*' if entry.best else ''}{number(entry.value)}{delta}"


def _bold(entry: Entry) -> str:
    text = _shown(entry).removeprefix("*")
    return f"**{text}**" if entry.best else text


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *numbers]).rstrip()
