"""Carry a decision out: register the candidate, write down why, move the aliases."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.config import nearest
from components.common.errors import StageError
from components.common.scores import Score
from components.common.tracking import store
from components.common.tracking.judged import score_metrics
from components.common.tracking.models import (
    ENCODER_TAG,
    NO_WEIGHTS_TAG,
    find_model,
    log_encoder_model,
    read_config,
)
from components.promote.config import PromoteParams
from components.promote.decide import Version, decide, decision_key, ranked
from components.promote.evidence import Evidence
from components.promote.gates import Decision
from components.promote.registry import CANDIDATE, CHAMPION, Registry, as_text, score_tags

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

DESCRIPTION_CHARS = 5000  # MLflow's column
TRIES = 5  # another promotion may move the champion while this one decides

Json = dict[str, Any]


def preview(registry: Registry | None, evidence: Evidence, params: PromoteParams) -> tuple[Json, bool]:
    """The decision as `promote` would take it now, without writing anything; whether it was taken before."""
    found = ranked(evidence, params)
    if registry is None or found.candidate is None:
        return decide(evidence, params).to_json(), False
    registered, champion = registry.find(found.candidate["encoder_sha256"]), registry.at(CHAMPION)
    if earlier := _earlier(registered, champion, decision_key(evidence, params)):
        return earlier, True
    return decide(evidence, params, champion, registered).to_json(), False


def promote(registry: Registry, evidence: Evidence, params: PromoteParams) -> Json:
    """Register every encoder's scores, the candidate as a version, and the champion if the gates let it.

    The same inputs give the same decision however often this is run or killed: a champion that owes its place to
    exactly these inputs is not compared with itself, its recorded decision is returned.
    """
    models = log_encoders(registry, evidence)
    found = ranked(evidence, params)
    if found.candidate is None:
        return found.to_json()
    run = found.candidate["run"]
    key = decision_key(evidence, params)
    for _ in range(TRIES):
        model = models[run]
        about = _described(evidence, run, model.tags.get("git_revision", "unknown"))
        sha256 = found.candidate["encoder_sha256"]
        candidate = registry.ensure(sha256, model.model_id, model.source_run_id, **about)
        champion = registry.at(CHAMPION)
        if earlier := _earlier(candidate, champion, key):
            registry.point(CANDIDATE, candidate.number)
            return earlier
        decision = decide(evidence, params, champion, candidate)
        if _carry_out(registry, decision, key, candidate, champion):
            return decision.to_json()
    raise StageError("the champion keeps changing", where=params.model, do="let the other promotions end first")


def _earlier(candidate: Version | None, champion: Version | None, key: str) -> Json | None:
    """The recorded decision, if these inputs were decided on before and the candidate is the champion since."""
    if candidate is None or champion is None or champion.number != candidate.number:
        return None
    return dict(json.loads(candidate.tags["decision"])) if candidate.tags.get("decision_key") == key else None


def _carry_out(registry: Registry, decision: Decision, key: str, candidate: Version, champion: Version | None) -> bool:
    """Record, then move the aliases, the champion's last. False if another promotion moved the champion meanwhile."""
    told = {"decision": as_text(decision.to_json()), "decision_key": key, "outcome": decision.outcome}
    if decision.outcome == "promoted":
        told["previous_champion"] = str(champion.number) if champion else "none"
    registry.tag(candidate.number, told)
    registry.point(CANDIDATE, candidate.number)
    if decision.outcome == "promoted":
        now = registry.at(CHAMPION)
        if (now and now.number) != (champion and champion.number):
            return False
        registry.point(CHAMPION, candidate.number)
    return True


def log_encoders(registry: Registry, evidence: Evidence) -> dict[str, LoggedModel]:
    """Every run's encoder as a LoggedModel that carries its scores, so that MLflow's pages can rank them.

    Returns:
        run -> its LoggedModel.
    """
    client = registry.client
    experiment = store.experiment_id(client)
    made = {}
    for run, folder in evidence.folders.items():
        sha256 = evidence.sha256(run)
        model = find_model(client, experiment, sha256)
        if model is None or str(model.status) != "READY" or NO_WEIGHTS_TAG in model.tags:
            home = model.source_run_id if model else _home_run(registry, experiment, run, sha256)
            log_encoder_model(store.tracking_uri(), home, folder, run)
            model = find_model(client, experiment, sha256)
        assert model is not None
        _log_scores(registry, model, evidence.scores[run])
        made[run] = model
    return made


def _home_run(registry: Registry, experiment: str, run: str, sha256: str) -> str:
    """A run for an encoder that no tracked run made (trained without tracking, or elsewhere)."""
    found = registry.client.search_runs([experiment], f"tags.{ENCODER_TAG} = '{sha256}'")
    if found:
        return str(found[0].info.run_id)
    tags = {ENCODER_TAG: sha256, "stage": "promote", "method": run}
    made = registry.client.create_run(experiment, tags=tags, run_name=f"encoder {run}")
    registry.client.set_terminated(made.info.run_id)
    return str(made.info.run_id)


def _log_scores(registry: Registry, model: LoggedModel, scores: dict[str, Score]) -> None:
    """Scores as metrics of the LoggedModel, as evaluate's run logs them; those it has already are not sent again."""
    known = {(metric.key, metric.value, metric.dataset_digest) for metric in model.metrics or []}
    now = int(time.time() * 1000)
    told = [metric for score in scores.values() for metric in score_metrics(score, model.model_id, now)]
    new = [metric for metric in told if (metric.key, metric.value, metric.dataset_digest) not in known]
    if new:
        registry.client.log_batch(model.source_run_id, metrics=new)


def _described(evidence: Evidence, run: str, revision: str) -> dict[str, Any]:
    """Tags and description of a version: the model card, the code and data it was made of, its scores."""
    folder, scores = evidence.folders[run], evidence.scores[run]
    about = read_config(folder).get("longtake", {})
    facts = {f"longtake.{key}": str(value) for key, value in about.items() if isinstance(value, str | int | float)}
    table = [
        f"| {task} | {s.primary} | {s.value:.4f} | {s.protocol} | {s.data_variant} |" for task, s in scores.items()
    ]
    head = [
        "",
        f"- code: git revision `{revision}`",
        "",
        "## Scores",
        "",
        "| task | metric | value | protocol | data |",
        "|---|---|---|---|---|",
    ]
    text = "\n".join([_card(folder), *head, *table])
    return {
        "tags": {"run": run, "git_revision": revision, **facts, **score_tags(scores)},
        "description": text[:DESCRIPTION_CHARS],
    }


def _card(folder: Path) -> str:
    card = folder / "README.md"
    return card.read_text(encoding="utf-8").rstrip() if card.is_file() else f"# {folder.name}"


def rollback(registry: Registry, to: int | None = None) -> tuple[int, int]:
    """Make the version before the present champion (or `to`) the champion again; returns (from, to).

    The version left behind is marked, so that a pipeline that runs again does not bring it back by itself.
    """
    champion = registry.at(CHAMPION)
    if champion is None:
        raise StageError("there is no champion", where=registry.model, do="promote one first")
    target = registry.version(to) if to is not None else _before(registry, champion)
    if target is None:
        known = ", ".join(str(version.number) for version in registry.versions())
        raise StageError(f"no version {to}; there are {known}", where=registry.model)
    if target.number == champion.number:
        return champion.number, target.number
    registry.tag(champion.number, {"rolled_back": f"to version {target.number}"})
    for key in {"rolled_back", "decision_key"} & set(target.tags):
        registry.untag(target.number, key)
    registry.point(CHAMPION, target.number)
    return champion.number, target.number


def _before(registry: Registry, champion: Version) -> Version:
    """The nearest earlier champion that was not rolled back itself."""
    seen, at = {champion.number}, champion
    while (number := at.tags.get("previous_champion", "none")) != "none" and int(number) not in seen:
        found = registry.version(int(number))
        if found is None:
            break
        if "rolled_back" not in found.tags:
            return found
        seen.add(found.number)
        at = found
    raise StageError(
        f"version {champion.number} replaced no champion that still stands",
        where=registry.model,
        do="name one with --to",
    )


def known_model(registry: Registry) -> None:
    """StageError, with the nearest name, if nothing is registered under this one."""
    if not registry.versions():
        names = [model.name for model in registry.client.search_registered_models()]
        raise StageError(f"no registered model '{registry.model}'{nearest(registry.model, names)}")
