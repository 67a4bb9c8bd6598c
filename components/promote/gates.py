"""The decision, as pure functions of scores and parameters: who is the candidate, and does it pass.

Nothing here knows of MLflow: the same scores always give the same decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from components.common.errors import StageError
from components.common.scores import Score
from components.promote.config import Gate, PromoteParams

TOLERANCE = 1e-12  # 0.48 - 0.50 is -0.020000000000000018 in floating point, and no loss of more than 0.02

Scores = Mapping[str, Score]  # by task
Passes = Callable[[float], bool]  # does this gain suffice
Outcome = Literal["promoted", "kept", "no candidate"]


@dataclass(frozen=True)
class Place:
    """A run's place among all that can be candidates."""

    run: str
    mean_rank: float
    ranks: dict[str, float]
    values: dict[str, float]


@dataclass(frozen=True)
class Opponent:
    """Whom the candidate meets: the champion, else the baseline run."""

    kind: Literal["champion", "baseline"]
    name: str
    scores: Scores

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Verdict:
    """Outcome of one gate; `line` explains it in one sentence."""

    gate: str
    task: str
    metric: str | None
    candidate: float | None
    opponent: float | None
    margin: float
    passed: bool
    line: str


@dataclass(frozen=True)
class Decision:
    """What was decided and why; everything in it follows from its inputs (no times, no ids)."""

    model: str
    outcome: Outcome
    reason: str
    ranking: list[Place] = field(default_factory=list)
    not_ranked: dict[str, str] = field(default_factory=dict)
    candidate: dict[str, Any] | None = None
    opponent: dict[str, Any] | None = None
    gates: list[Verdict] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rank(
    runs: Mapping[str, Scores], params: PromoteParams, unusable: Mapping[str, str] | None = None
) -> tuple[list[Place], dict[str, str]]:
    """Order runs by their mean rank over `rank_by`; equal values share the mean of their places.

    A tie in mean rank is decided by the first task of `rank_by`, then the next, then by name.

    Args:
        runs: run -> task -> score.
        unusable: run -> why it cannot be a candidate for reasons outside of its scores.

    Returns:
        places, best first, and run -> reason for those that cannot be ranked.

    Raises:
        StageError: the runs were not measured in the same way.
    """
    absent = {run: [task for task in params.rank_by if task not in scores] for run, scores in runs.items()}
    reasons = {run: f"no score on {', '.join(tasks)}" for run, tasks in absent.items() if tasks}
    reasons |= unusable or {}
    reasons |= {run: "excluded by params.yaml" for run in runs if run in params.exclude}
    able = {run: scores for run, scores in runs.items() if run not in reasons}
    for task in params.rank_by:
        _same_setting({run: scores[task] for run, scores in able.items()})
    ranks = {task: _ranks({run: _good(scores[task]) for run, scores in able.items()}) for task in params.rank_by}
    places = [
        Place(
            run,
            sum(ranks[task][run] for task in params.rank_by) / len(params.rank_by),
            {task: ranks[task][run] for task in params.rank_by},
            {task: scores[task].value for task in params.rank_by},
        )
        for run, scores in able.items()
    ]
    places.sort(key=lambda place: (place.mean_rank, *(place.ranks[task] for task in params.rank_by), place.run))
    return places, dict(sorted(reasons.items()))


def judge(
    candidate: Scores, opponent: Opponent | None, baseline: Opponent | None, params: PromoteParams
) -> list[Verdict]:
    """Every gate's verdict, in the order of params.yaml."""
    verdicts = []
    if opponent is not None:
        verdicts += [_beat("must_beat", t, gate, candidate, opponent) for t, gate in params.must_beat.items()]
        verdicts += [_not_lose(t, gate, candidate, opponent) for t, gate in params.must_not_lose.items()]
    for task, gate in params.require_above.items():
        if baseline is None:
            line = f"{task}: no baseline run '{params.baseline}' to stand above"
            verdicts.append(Verdict("require_above", task, gate.metric, None, None, gate.margin, False, line))
        else:
            verdicts.append(_beat("require_above", task, gate, candidate, baseline))
    return verdicts


def comparable(candidate: Scores, opponent: Opponent, params: PromoteParams) -> str:
    """Why candidate and opponent cannot be compared on the gates' tasks; empty where they can."""
    tasks = [task for task in {**params.must_beat, **params.must_not_lose} if task in candidate]
    absent = [f"{task}: the {opponent} has no score" for task in tasks if task not in opponent.scores]
    both = [task for task in tasks if task in opponent.scores]
    told = [(task, candidate[task].differences(opponent.scores[task])) for task in both]
    return "; ".join(absent + [f"{task}: {difference}" for task, difference in told if difference])


def _beat(name: str, task: str, gate: Gate, candidate: Scores, opponent: Opponent) -> Verdict:
    return _verdict(name, task, gate, candidate, opponent, lambda d: d > TOLERANCE and d >= gate.margin - TOLERANCE)


def _not_lose(task: str, gate: Gate, candidate: Scores, opponent: Opponent) -> Verdict:
    return _verdict("must_not_lose", task, gate, candidate, opponent, lambda d: d >= -gate.margin - TOLERANCE)


def _verdict(name: str, task: str, gate: Gate, candidate: Scores, opponent: Opponent, passes: Passes) -> Verdict:
    metric = gate.metric or (candidate[task].primary if task in candidate else None)
    ours, theirs = _value(candidate, task, metric), _value(opponent.scores, task, metric)
    if ours is None or theirs is None:
        who = "the candidate" if ours is None else f"the {opponent}"
        line = f"{task}: {who} has no {metric or 'score'}"
        return Verdict(name, task, metric, ours, theirs, gate.margin, False, line)
    if unlike := candidate[task].differences(opponent.scores[task]):
        return Verdict(name, task, metric, ours, theirs, gate.margin, False, f"{task}: not comparable, {unlike}")
    # Secondary metrics count in the direction of their task's primary one.
    gain = (ours - theirs) if candidate[task].higher_is_better else (theirs - ours)
    needed = f"at most {gate.margin:g} worse" if name == "must_not_lose" else f"better by {gate.margin:g}"
    needed = "better" if needed == "better by 0" else needed
    line = f"{task} {metric} {ours:.4f} against {theirs:.4f} of the {opponent} ({gain:+.4f}; needed: {needed})"
    return Verdict(name, task, metric, ours, theirs, gate.margin, passes(gain), line)


def _value(scores: Scores, task: str, metric: str | None) -> float | None:
    return scores[task].metrics.get(metric) if metric and task in scores else None


def _good(score: Score) -> float:
    return score.value if score.higher_is_better else -score.value


def _ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Rank 1 for the largest value; equal values share the mean of the places they take."""
    above = {run: sum(other > value for other in values.values()) for run, value in values.items()}
    equal = {run: sum(other == value for other in values.values()) for run, value in values.items()}
    return {run: above[run] + (equal[run] + 1) / 2 for run in values}


def _same_setting(scores: Mapping[str, Score]) -> None:
    runs = sorted(scores)
    for run in runs[1:]:
        if unlike := scores[runs[0]].differences(scores[run]):
            raise StageError(
                f"'{runs[0]}' and '{run}' were not measured in the same way on {scores[run].task}: {unlike}",
                do="evaluate them again with the same parameters",
            )


def from_json(told: Mapping[str, Any]) -> Decision:
    """A recorded decision, as `Decision.to_json` wrote it."""
    places, gates = [Place(**p) for p in told["ranking"]], [Verdict(**v) for v in told["gates"]]
    return Decision(**{**told, "ranking": places, "gates": gates})
