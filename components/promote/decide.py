"""From scores and the registry's present state to a decision, without touching either."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from components.common import hashing
from components.common.scores import Score
from components.promote.config import PromoteParams
from components.promote.evidence import Evidence
from components.promote.gates import Decision, Opponent, comparable, judge, rank


@dataclass(frozen=True)
class Version:
    """A registered version, as its tags describe it."""

    number: int
    run: str
    sha256: str
    scores: dict[str, Score] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        return {"kind": "champion", "run": self.run, "version": self.number, "encoder_sha256": self.sha256}


def ranked(evidence: Evidence, params: PromoteParams) -> Decision:
    """The first half: the ranking and the candidate, which do not depend on the registry."""
    failed = {run: f"{task} failed: {why}" for (run, task), why in evidence.failed.items() if task in params.rank_by}
    places, reasons = rank(evidence.scores, params, {**evidence.unusable, **failed})
    decision = Decision(params.model, "no candidate", "no run can be a candidate", places, reasons)
    if not places:
        return decision
    best = places[0].run
    candidate: dict[str, Any] = {"run": best, "encoder_sha256": evidence.sha256(best), "version": None}
    return replace(decision, outcome="kept", reason="", candidate=candidate)


def decide(
    evidence: Evidence, params: PromoteParams, champion: Version | None = None, registered: Version | None = None
) -> Decision:
    """Who is the candidate, whom it meets, what each gate says, what follows.

    Args:
        champion: the present champion, if there is one.
        registered: the candidate's own version, if it was registered before.
    """
    decision = ranked(evidence, params)
    if decision.candidate is None:
        return decision
    candidate = {**decision.candidate, "version": registered.number if registered else None}
    decision, run = replace(decision, candidate=candidate), candidate["run"]
    if champion is not None and champion.sha256 == candidate["encoder_sha256"]:
        return replace(decision, opponent=champion.described(), reason=f"'{run}' is the champion already")
    if registered is not None and "rolled_back" in registered.tags:
        do = f"python -m components.promote rollback --model '{params.model}' --to {registered.number}"
        return replace(decision, reason=f"version {registered.number} was rolled back by hand; to reinstate it: {do}")
    return _meet(decision, evidence, params, champion)


def _meet(decision: Decision, evidence: Evidence, params: PromoteParams, champion: Version | None) -> Decision:
    assert decision.candidate is not None
    run, scores = decision.candidate["run"], evidence.scores
    baseline = _baseline(evidence, params)
    opponent, described = baseline, {"kind": "baseline", "run": params.baseline} if baseline else None
    aside = ""
    if champion is not None:
        opponent, described = Opponent("champion", f"'{champion.run}'", champion.scores), champion.described()
        unlike = comparable(scores[run], opponent, params)
        if unlike and params.when_not_comparable == "keep":
            decision = replace(decision, gates=judge(scores[run], opponent, baseline, params), opponent=described)
            return replace(decision, reason=f"not comparable with the champion, which stays: {unlike}")
        if unlike:
            opponent, aside = baseline, f" (the champion was not comparable: {unlike})"
            described = {"kind": "baseline", "run": params.baseline} if baseline else None
    gates = judge(scores[run], opponent, baseline, params)
    failed = [verdict.line for verdict in gates if not verdict.passed]
    decision = replace(decision, gates=gates, opponent=described)
    if failed:
        return replace(decision, reason=f"{len(failed)} of {len(gates)} gates failed: {failed[0]}{aside}")
    passed = (
        f"passed all {len(gates)} gates against the {opponent}" if opponent else "the first; nothing to compare with"
    )
    return replace(decision, outcome="promoted", reason=passed + aside)


def _baseline(evidence: Evidence, params: PromoteParams) -> Opponent | None:
    if params.baseline is None or params.baseline not in evidence.scores:
        return None
    return Opponent("baseline", f"'{params.baseline}'", evidence.scores[params.baseline])


def decision_key(evidence: Evidence, params: PromoteParams) -> str:
    """Hash of everything a decision follows from except the registry; equal for a stage that is run again."""
    return hashing.json_hash([params.model_dump(mode="json"), evidence.to_json(), evidence.unusable])


def explained(decision: Decision) -> list[str]:
    """The decision, line by line, for people."""
    lines = [f"{i}. {p.run}: mean rank {p.mean_rank:.2f} ({_ranks(p.ranks, p.values)})" for i, p in _numbered(decision)]
    lines += [f"-  {run}: {reason}" for run, reason in decision.not_ranked.items()]
    if decision.candidate is not None:
        version = decision.candidate["version"]
        state = f"version {version}" if version else "not registered yet"
        lines.append(f"candidate: {decision.candidate['run']} ({state})")
    lines.append(f"opponent:  {_opponent(decision)}")
    lines += [f"{'pass' if gate.passed else 'FAIL'}  {gate.gate}: {gate.line}" for gate in decision.gates]
    return [*lines, f"{decision.outcome}: {decision.reason}"]


def _numbered(decision: Decision) -> list[tuple[int, Any]]:
    return list(enumerate(decision.ranking, start=1))


def _ranks(ranks: dict[str, float], values: dict[str, float]) -> str:
    return ", ".join(f"{task} {values[task]:.4f} rank {ranks[task]:g}" for task in ranks)


def _opponent(decision: Decision) -> str:
    if decision.opponent is None:
        return "none"
    version = f" (version {decision.opponent['version']})" if "version" in decision.opponent else ""
    return f"{decision.opponent['kind']} '{decision.opponent['run']}'{version}"
