"""The leaderboard: who stands where, and what is never put together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.scores import Cell, Score
from components.compare.board import Board, build
from components.compare.tables import as_markdown, as_text


def cell(run: str, task: str, value: float, **changes: Any) -> Cell:
    known = {
        "method": run,
        "task": task,
        "protocol": "p",
        "metrics": {"main": value},
        "primary": "main",
        "encoder_sha256": run,
        "benchmark_hash": "b",
        "params": {"k": 5},
        "data_variant": "d",
    }
    return Cell(run, task, Score(**{**known, **changes}))


def entries(board: Board, run: str) -> dict[str, Any]:
    return next(row.entries for row in board.rows if row.run == run)


def test_places_differences_and_mean_ranks() -> None:
    cells = [cell("random", "knn", 0.3), cell("dino", "knn", 0.5), cell("dora", "knn", 0.5)]
    cells += [cell("random", "vos", 0.4), cell("dino", "vos", 0.3), cell("dora", "vos", 0.6)]
    board = build(cells, [], [], "random")
    assert [(row.run, row.mean_rank) for row in board.rows] == [("dora", 1.25), ("dino", 2.25), ("random", 2.5)]
    dino = entries(board, "dino")
    assert (dino["knn"].best, dino["knn"].rank, dino["knn"].delta) == (True, 1.5, pytest.approx(0.2))
    assert (dino["vos"].best, dino["vos"].rank, dino["vos"].delta) == (False, 3.0, pytest.approx(-0.1))
    assert entries(board, "random")["knn"].delta is None
    assert board.troubles == []


def test_lower_is_better() -> None:
    cells = [cell("a", "depth", 0.5, higher_is_better=False), cell("b", "depth", 0.4, higher_is_better=False)]
    board = build(cells, [], [], "a")
    assert board.rows[0].run == "b" and entries(board, "b")["depth"].best
    assert "main (lower is better)" in as_text(board)


@pytest.mark.parametrize(
    "change",
    [{"protocol": "q"}, {"data_variant": "e"}, {"benchmark_hash": "c"}, {"params": {"k": 6}}],
    ids=lambda change: next(iter(change)),
)
def test_a_column_never_mixes_settings(change: dict[str, Any]) -> None:
    board = build([cell("a", "knn", 0.3), cell("b", "knn", 0.5), cell("c", "knn", 0.9, **change)], [], [], "a")
    first, second = board.columns
    assert [entries(board, run)[first.key].status for run in "abc"] == ["ok", "ok", "other setting"]
    assert [entries(board, run)[second.key].status for run in "abc"] == ["other setting", "other setting", "ok"]
    assert entries(board, "b")[first.key].best and entries(board, "c")[second.key].delta is None
    assert first.note and second.note and first.note != second.note
    assert entries(board, "c")[second.key].rank == 1.0 and next(r for r in board.rows if r.run == "c").mean_rank is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"), st.floats(0, 1), st.sampled_from("pq"))))
def test_every_score_is_shown_once_and_every_entry_of_a_column_shares_its_setting(rows: list[Any]) -> None:
    cells = {(run, task): cell(run, task, value, protocol=protocol) for run, task, value, protocol in rows}
    board = build(list(cells.values()), [], [], "a")
    shown = [(r.run, c) for r in board.rows for c in board.columns if r.entries[c.key].value is not None]
    assert sorted((run, column.task) for run, column in shown) == sorted(cells)
    for run, column in shown:
        score = cells[run, column.task].score
        assert score is not None and score.setting == column.setting
        assert score.value == entries(board, run)[column.key].value


def test_failed_and_missing_are_shown_with_their_reason() -> None:
    cells = [
        cell("random", "knn", 0.3),
        Cell("dino", "knn", reason="out of memory"),
        Cell("dino", "vos", reason="killed"),
    ]
    board = build(cells, ["dora"], ["knn"], "random")
    assert entries(board, "dino")["knn"].status == "failed" and entries(board, "dino")["knn"].reason == "out of memory"
    assert entries(board, "dora")["knn"].reason == "not evaluated: dvc repro evaluate@dora-knn"
    assert board.troubles == [
        "dino on knn: failed, out of memory",
        "dino on vos: failed, killed",
        "dora on knn: missing, not evaluated: dvc repro evaluate@dora-knn",
    ]
    assert next(row for row in board.rows if row.run == "dora").mean_rank is None


def test_tables_for_people_and_programs() -> None:
    board = build(
        [cell("random", "knn", 0.3), cell("dino", "knn", 0.5), Cell("dora", "knn", reason="r")], [], [], "random"
    )
    lines = as_text(board).splitlines()
    assert lines[0].split() == ["knn"] and lines[1].split() == ["method", "main", "mean", "rank"]
    assert lines[3].split() == ["dino", "*0.500", "(+0.200)", "1.00"]
    assert lines[5].split() == ["dora", "failed", "-"]
    assert len({len(line) for line in lines[2:3]}) == 1
    marked = as_markdown(board)
    assert "| dino | **0.500 (+0.200)** | 1.00 |" in marked and "- (+/-) difference to 'random'" in marked
    told = json.loads(json.dumps(board.to_json()))
    assert told["columns"][0]["protocol"] == "p" and told["rows"][0]["cells"]["knn"]["value"] == 0.5
    assert told["rows"][2]["cells"]["knn"] == {"best": False, "reason": "r", "status": "failed"}
