"""Scores on the model that they judge: MLflow's table of models then ranks all encoders by any task.

A LoggedModel's metric carries a dataset, and MLflow shows one column for each of them. Its digest here is that of all
that must agree before two scores may be compared (`Score.setting`), so a column never mixes protocols.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.scores import Score
from components.common.tracking import store
from components.common.tracking.journal import Event, Journal, pending
from components.common.tracking.models import ENCODER_TAG, NO_WEIGHTS_TAG, find_model

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric
    from mlflow.tracking import MlflowClient


Send = Callable[["MlflowClient", Journal], None]


def log_judged(client: MlflowClient, run_id: str, event: Event, folder: Path, send: Send) -> None:
    """Carry out a `judged` event of a journal below `folder`.

    Trainings that have not sent all of theirs do so first: the model they log should be theirs, not their judge's.
    """
    for journal in pending(folder) if event["folder"] else ():
        first = journal.first()
        if first is not None and first["tags"].get("stage") == "pretrain":
            send(client, journal)
    score = Score.model_validate(event["score"])
    with store.store_lock(store.tracking_uri()):  # two evaluations may be the first of one encoder
        log_score(client, run_id, score, event["origin"], event["folder"], event["time_ms"])


def log_score(client: MlflowClient, run_id: str, score: Score, origin: str, folder: bool, time_ms: int) -> str:
    """Link a run to the model it judged and to the data, and put the score on that model; returns the model's id.

    Doing it again changes nothing. An encoder that no run has logged gets a LoggedModel of its own: one of a model
    folder stays pending until the folder is logged (see models.py), one from elsewhere is named after its origin.

    Args:
        run_id: the evaluation's run.
        origin: where the weights come from, in words.
        folder: whether the encoder is a model folder.
        time_ms: when the score was taken.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    model = find_model(client, experiment, score.encoder_sha256)
    if model is None:
        model = _create(client, experiment, run_id, score, origin, folder)
    client.log_batch(run_id, metrics=score_metrics(score, str(model.model_id), time_ms))
    source = {"benchmark_hash": score.benchmark_hash, "data": score.data_variant, "protocol": score.protocol}
    data = Dataset(_name(score), score.setting, "local", json.dumps(source, sort_keys=True))
    inputs = run.inputs
    known = [entry.model_id for entry in inputs.model_inputs] if inputs else []
    client.log_inputs(
        run_id,
        datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])],
        models=[] if model.model_id in known else [LoggedModelInput(model.model_id)],
    )
    return str(model.model_id)


def score_metrics(score: Score, model_id: str, time_ms: int) -> list[Metric]:
    """A score's figures as metrics `task/name` of a LoggedModel."""
    from mlflow.entities import Metric

    about: dict[str, Any] = {"dataset_name": _name(score), "dataset_digest": score.setting}
    return [
        Metric(f"{score.task}/{name}", value, time_ms, 0, model_id=model_id, **about)
        for name, value in sorted(score.metrics.items())
    ]


def _name(score: Score) -> str:
    return f"{score.task}: {score.protocol}"


def _create(client: MlflowClient, experiment: str, run_id: str, score: Score, origin: str, folder: bool) -> LoggedModel:
    from mlflow.entities import LoggedModelStatus

    tags = {ENCODER_TAG: score.encoder_sha256, "method": score.method}
    model = client.create_logged_model(
        experiment,
        name=score.method,
        source_run_id=run_id,
        params={"origin": origin},
        tags=tags if folder else {**tags, NO_WEIGHTS_TAG: "true"},
        model_type="encoder",
    )
    return model if folder else client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
