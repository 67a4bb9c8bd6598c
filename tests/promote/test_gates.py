"""Ranking, gates and decisions, as pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import StageError
from components.common.scores import Score
from components.promote.config import PromoteParams
from components.promote.decide import Version, decide, decision_key, explained
from components.promote.evidence import Evidence
from components.promote.gates import Opponent, from_json, judge, rank


def score(task: str, value: float, sha: str = "x", **changes: Any) -> Score:
    known = {
        "method": "m",
        "task": task,
        "protocol": "p",
        "metrics": {"main": value, "side": 1 - value},
        "primary": "main",
        "encoder_sha256": sha,
        "benchmark_hash": "b",
        "params": {"k": 5},
        "data_variant": "d",
    }
    return Score(**{**known, **changes})


def scores(knn: float, vos: float, sha: str = "x", **changes: Any) -> dict[str, Score]:
    return {"knn": score("knn", knn, sha, **changes), "vos": score("vos", vos, sha, **changes)}


def params(**changes: Any) -> PromoteParams:
    known = {"rank_by": ["knn", "vos"], "must_beat": {"vos": {}}, "must_not_lose": {"knn": {"margin": 0.02}}}
    return PromoteParams(**{**known, **changes})


def champion(knn: float, vos: float, **changes: Any) -> Version:
    return Version(7, "old", "old-sha", scores(knn, vos, "old-sha", **changes))


def test_mean_rank_with_shared_places() -> None:
    runs = {"a": scores(0.9, 0.1), "b": scores(0.9, 0.3), "c": scores(0.2, 0.2)}
    places, reasons = rank(runs, params())
    assert [(p.run, p.mean_rank) for p in places] == [("b", 1.25), ("a", 2.25), ("c", 2.5)]
    assert places[0].ranks == {"knn": 1.5, "vos": 1.0}
    assert reasons == {}


def test_a_tie_in_mean_rank_goes_to_the_first_task_then_the_name() -> None:
    runs = {"z": scores(0.9, 0.1), "a": scores(0.1, 0.9)}
    assert rank(runs, params())[0][0].run == "z"
    assert rank(runs, params(rank_by=["vos", "knn"]))[0][0].run == "a"
    same = {"b": scores(0.5, 0.5), "a": scores(0.5, 0.5)}
    assert [p.run for p in rank(same, params())[0]] == ["a", "b"]


def test_lower_is_better_turns_the_order() -> None:
    runs = {
        "a": {"depth": score("depth", 0.4, higher_is_better=False)},
        "b": {"depth": score("depth", 0.3, higher_is_better=False)},
    }
    assert rank(runs, params(rank_by=["depth"]))[0][0].run == "b"


def test_excluded_and_incomplete_runs_are_told_apart() -> None:
    runs = {"random": scores(1, 1), "half": {"knn": score("knn", 0.5)}, "dino": scores(0.4, 0.4)}
    places, reasons = rank(runs, params(exclude=["random"]), {"ghost": "no model folder"})
    assert [p.run for p in places] == ["dino"]
    assert reasons == {"ghost": "no model folder", "half": "no score on vos", "random": "excluded by params.yaml"}


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_ranks_are_a_permutation_with_ties_averaged(values: dict[str, float]) -> None:
    runs = {run: {"knn": score("knn", value)} for run, value in values.items()}
    places, _ = rank(runs, params(rank_by=["knn"]))
    n = len(values)
    assert sum(place.mean_rank for place in places) == pytest.approx(n * (n + 1) / 2)
    assert [values[p.run] for p in places] == sorted(values.values(), reverse=True)
    naive = {
        r: (sorted(values.values(), reverse=True).index(v) + 1, sorted(values.values()).index(v))
        for r, v in values.items()
    }
    for place in places:
        first, below = naive[place.run]
        assert place.mean_rank == (first + (n - below)) / 2


def test_runs_measured_differently_are_never_ranked_together() -> None:
    runs = {"a": scores(0.5, 0.5), "b": scores(0.6, 0.6, protocol="other")}
    with pytest.raises(
        StageError, match=r"'a' and 'b' were not measured in the same way on knn: protocol p against other"
    ):
        rank(runs, params())
    with pytest.raises(StageError, match=r"params\.k 5 against 6"):
        rank({"a": scores(0.5, 0.5), "b": scores(0.6, 0.6, params={"k": 6})}, params())


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "passed"),
    [
        (0.51, 0.50, 0.0, True),
        (0.50, 0.50, 0.0, False),  # equal is not better
        (0.52, 0.50, 0.02, True),  # 0.020000000000000018 in floating point, and the margin is reached
        (0.515, 0.50, 0.02, False),
        (0.49, 0.50, 0.0, False),
    ],
)
def test_must_beat(ours: float, theirs: float, margin: float, passed: bool) -> None:
    rule = params(must_beat={"vos": {"margin": margin}}, must_not_lose={})
    verdicts = judge(scores(0, ours), Opponent("champion", "c", scores(0, theirs)), None, rule)
    assert [v.passed for v in verdicts] == [passed]


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "passed"),
    [(0.48, 0.50, 0.02, True), (0.50, 0.48, 0.02, True), (0.4799, 0.50, 0.02, False), (0.5, 0.5, 0.0, True)],
)
def test_must_not_lose(ours: float, theirs: float, margin: float, passed: bool) -> None:
    rule = params(must_beat={}, must_not_lose={"knn": {"margin": margin}})
    verdicts = judge(scores(ours, 0), Opponent("champion", "c", scores(theirs, 0)), None, rule)
    assert [v.passed for v in verdicts] == [passed]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_gates_are_monotone_in_score_and_margin(ours: float, theirs: float, margin: float, more: float) -> None:
    def passes(value: float, m: float) -> list[bool]:
        rule = params(must_beat={"vos": {"margin": m}}, must_not_lose={"knn": {"margin": m}})
        return [
            v.passed for v in judge(scores(value, value), Opponent("champion", "c", scores(theirs, theirs)), None, rule)
        ]

    beat, keep = passes(ours, margin)
    better_beat, better_keep = passes(min(ours + more, 1.0), margin)
    assert better_beat >= beat and better_keep >= keep
    strict_beat, lenient_keep = passes(ours, margin + more)
    assert strict_beat <= beat and lenient_keep >= keep
    assert keep or not beat  # whoever beats the champion loses nothing


def test_a_gate_may_name_another_metric_and_says_when_it_is_absent() -> None:
    against = Opponent("champion", "c", scores(0.5, 0.5))
    rule = params(must_beat={"vos": {"metric": "side"}}, must_not_lose={})
    assert judge(scores(0.5, 0.4), against, None, rule)[0].passed  # side = 1 - main
    rule = params(must_beat={"vos": {"metric": "nope"}, "depth": {}}, must_not_lose={})
    lines = [v.line for v in judge(scores(0.5, 0.4), against, None, rule)]
    assert lines == ["vos: the candidate has no nope", "depth: the candidate has no score"]


def evidence(**runs: dict[str, Score]) -> Evidence:
    return Evidence(runs)


def test_first_promotion_meets_the_baseline() -> None:
    given_ = evidence(dino=scores(0.6, 0.6, "d"), random=scores(0.4, 0.5, "r"))
    decision = decide(given_, params(exclude=["random"]))
    assert (decision.outcome, decision.opponent) == ("promoted", {"kind": "baseline", "run": "random"})
    worse = decide(evidence(dino=scores(0.6, 0.5, "d"), random=scores(0.4, 0.5, "r")), params(exclude=["random"]))
    assert worse.outcome == "kept" and worse.reason.startswith("1 of 2 gates failed: vos main 0.5000 against 0.5000")


def test_first_promotion_without_a_baseline_has_nothing_to_meet() -> None:
    decision = decide(evidence(dino=scores(0.6, 0.6, "d")), params())
    assert (decision.outcome, decision.reason) == ("promoted", "the first; nothing to compare with")
    floor = decide(evidence(dino=scores(0.6, 0.6, "d")), params(require_above={"vos": {}}))
    assert floor.outcome == "kept" and "no baseline run 'random'" in floor.reason


def test_champion_is_beaten_or_stays() -> None:
    new = evidence(dino=scores(0.6, 0.6, "d"))
    assert decide(new, params(), champion(0.61, 0.59)).outcome == "promoted"
    assert decide(new, params(), champion(0.63, 0.59)).outcome == "kept"  # loses more than 0.02 on knn
    assert decide(new, params(), champion(0.61, 0.61)).outcome == "kept"


def test_a_champion_measured_otherwise_stays_unless_params_say_so() -> None:
    new = evidence(dino=scores(0.6, 0.6, "d"), random=scores(0.4, 0.4, "r"))
    old = champion(0.1, 0.1, data_variant="other")
    kept = decide(new, params(exclude=["random"]), old)
    assert kept.outcome == "kept" and kept.reason.startswith(
        "not comparable with the champion, which stays: vos: data d against other"
    )
    assert not any(gate.passed for gate in kept.gates)
    rule = params(exclude=["random"], when_not_comparable="baseline")
    judged = decide(new, rule, old)
    assert judged.outcome == "promoted" and judged.opponent == {"kind": "baseline", "run": "random"}
    assert "the champion was not comparable" in judged.reason


def test_the_champion_itself_and_a_rolled_back_version_stay_where_they_are() -> None:
    new = evidence(dino=scores(0.6, 0.6, "d"))
    itself = decide(new, params(), Version(3, "dino", "d"), Version(3, "dino", "d"))
    assert (itself.outcome, itself.reason) == ("kept", "'dino' is the champion already")
    pulled = decide(new, params(), champion(0.1, 0.1), Version(3, "dino", "d", tags={"rolled_back": "to version 2"}))
    assert pulled.outcome == "kept" and "--to 3" in pulled.reason


def test_nobody_can_be_a_candidate() -> None:
    decision = decide(Evidence({"random": scores(0.1, 0.1)}, unusable={"random": "no model folder"}), params())
    assert (decision.outcome, decision.candidate) == ("no candidate", None)
    assert explained(decision)[-1] == "no candidate: no run can be a candidate"


def test_a_failed_task_bars_a_run_only_where_it_counts() -> None:
    runs = {"dino": scores(0.6, 0.6, "d"), "ibot": scores(0.9, 0.9, "i")}
    failed = {("ibot", "depth"): "out of memory"}
    assert decide(Evidence(runs, failed=failed), params()).candidate["run"] == "ibot"  # type: ignore[index]
    barred = Evidence({**runs, "ibot": {"knn": runs["ibot"]["knn"]}}, failed={("ibot", "vos"): "out of memory"})
    assert decide(barred, params()).not_ranked == {"ibot": "vos failed: out of memory"}


def test_decision_survives_json_and_its_key_follows_the_inputs() -> None:
    new = evidence(dino=scores(0.6, 0.6, "d"), random=scores(0.4, 0.5, "r"))
    decision = decide(new, params(exclude=["random"]))
    assert from_json(decision.to_json()) == decision
    assert any(line.startswith("pass  must_beat: vos main 0.6000 against 0.5000") for line in explained(decision))
    assert decision_key(new, params()) == decision_key(new, params())
    assert decision_key(new, params()) != decision_key(evidence(dino=scores(0.6, 0.61, "d")), params())
    assert decision_key(new, params()) != decision_key(new, params(baseline=None))
