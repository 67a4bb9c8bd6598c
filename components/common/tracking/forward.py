"""The sending side of tracking: reads journals and brings MLflow up to date, in batches, as often as needed.

Sending twice does no harm: a run is found again by its uid, and MLflow keeps equal (key, step, time, value) once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from components.common.tracking import store
from components.common.tracking.journal import Event, Journal, State, now_ms, pending

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

BATCH_METRICS = 500  # MLflow takes 1000 metrics, 100 params, 100 tags in one call
BATCH_PARAMS = 100
VALUE_CHARS = 500  # MLflow 2's limit of a parameter's value; later servers take more
POLL_S = 1.0
AWAY_S = 30.0  # wait between tries at a server that does not answer
UID_TAG = "longtake.uid"
PARENT_TAG = "mlflow.parentRunId"


def forward(journal: Journal, folder: Path) -> None:
    """Send a live journal until its run ends, then whatever else is pending below `folder`."""
    wait = 0.0
    while not _finished(journal):
        time.sleep(POLL_S)
        if time.monotonic() >= wait and not _try(journal):
            wait = time.monotonic() + AWAY_S
    if _try(journal):
        sync(folder)


def sync(folder: Path) -> list[tuple[str, str]]:
    """Send every pending journal below `folder`; returns (uid, trouble) of those that could not be sent."""
    client = None
    troubles = []
    for journal in pending(folder):
        try:
            client = client or store.client()
            send(client, journal)
        except Exception as error:  # whatever the server did: the journal keeps it, the next sync tries again
            troubles.append((journal.folder.name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    return troubles


def _try(journal: Journal) -> bool:
    try:
        send(store.client(), journal)
    except Exception as error:  # a forwarder must outlive any server
        print(f"{journal.folder.name}: not sent, {type(error).__name__}: {error}", flush=True)
        return False
    return True


def _finished(journal: Journal) -> bool:
    """The run has ended, or its process has died without saying so."""
    events, _ = journal.read(0)
    if events and events[-1]["kind"] == "end":
        return True
    return _orphaned(events)


def _orphaned(events: list[Event]) -> bool:
    starts = [event for event in events if event["kind"] == "start"]
    if not starts:
        return False
    try:  # a process id alone may have been given to another process since
        return abs(psutil.Process(starts[-1]["pid"]).create_time() - starts[-1]["began"]) > 1.0
    except psutil.NoSuchProcess:
        return True


def send(client: MlflowClient, journal: Journal) -> None:
    """Bring MLflow up to date with one journal; raises whatever the server raises, having kept its place."""
    with journal.sending() as mine:
        if not mine:
            return
        state = journal.state
        events, offset = journal.read(state.offset)
        if not events and state.run_id:
            _close_orphan(client, journal, state)
            return
        everything, _ = journal.read(0)
        first = next((event for event in everything if event["kind"] == "start"), None)
        if first is None:
            return
        if not state.run_id:
            state.run_id = _run_of(client, first)
            journal.save(state)
        _Sender(client, journal, state.run_id, first).send(events)
        state.offset, state.done = offset, bool(events) and events[-1]["kind"] == "end"
        journal.save(state)
        _close_orphan(client, journal, state)


def _close_orphan(client: MlflowClient, journal: Journal, state: State) -> None:
    """A process killed outright wrote no end: its run is marked KILLED (a resume opens it again)."""
    events, _ = journal.read(0)
    if not state.done and events and events[-1]["kind"] != "end" and _orphaned(events):
        client.set_terminated(state.run_id, "KILLED", end_time=events[-1]["time_ms"])
        state.done = True
        journal.save(state)


def _run_of(client: MlflowClient, start: Event) -> str:
    """The run of a journal: the one we were told to attach to, one made before, or a new one below the pipeline's."""
    if start["attach"]:
        return str(start["attach"])
    tags = dict(start["tags"])
    experiment = store.experiment_id(client)
    if pipeline := tags.get("pipeline_run"):
        tags[PARENT_TAG] = pipeline_run(client, pipeline, tags)
    return find_or_create(client, experiment, start["uid"], start["name"], tags, start["time_ms"])


def pipeline_run(client: MlflowClient, uid: str, tags: dict[str, str]) -> str:
    """The run of a whole pipeline, shared by its stages."""
    shared = {"stage": "pipeline", "git_revision": tags.get("git_revision", "")}
    return find_or_create(client, store.experiment_id(client), uid, uid, shared, now_ms())


def find_or_create(
    client: MlflowClient, experiment: str, uid: str, name: str, tags: dict[str, str], start_ms: int
) -> str:
    """The run tagged with `uid`; several stages may ask for the same new one at once."""
    with store.store_lock(store.tracking_uri()):
        found = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", order_by=["attributes.start_time ASC"])
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(experiment, start_time=start_ms, tags={**tags, UID_TAG: uid}, run_name=name)
        return str(run.info.run_id)


class _Sender:
    """Sends a stretch of events to one run, metrics in batches, in the order they happened."""

    def __init__(self, client: MlflowClient, journal: Journal, run_id: str, start: Event) -> None:
        self.client, self.journal, self.run_id, self.start = client, journal, run_id, start
        self._parent: str | None = None

    @property
    def parent(self) -> str:
        """The pipeline's run; the run itself where there is no pipeline."""
        if self._parent is None:
            uid = self.start["tags"].get("pipeline_run")
            self._parent = pipeline_run(self.client, uid, self.start["tags"]) if uid else self.run_id
        return self._parent

    def send(self, events: list[Event]) -> None:
        metrics: list[Event] = []
        for event in events:
            if event["kind"] == "metrics":
                metrics.append(event)
                continue
            self._metrics(self.run_id, metrics)
            metrics = []
            getattr(self, f"_on_{event['kind']}")(event)
        self._metrics(self.run_id, metrics)

    def _metrics(self, run_id: str, events: Iterable[Event]) -> None:
        from mlflow.entities import Metric

        rows = [
            Metric(key, value, event["time_ms"], event.get("step", 0))
            for event in events
            for key, value in event["values"].items()
        ]
        for i in range(0, len(rows), BATCH_METRICS):
            self.client.log_batch(run_id, metrics=rows[i : i + BATCH_METRICS])

    def _on_start(self, event: Event) -> None:
        self._tags(self.run_id, event["tags"])
        self.client.update_run(self.run_id, status="RUNNING")
        if self.parent != self.run_id:
            self.client.update_run(self.parent, status="RUNNING")

    def _on_tags(self, event: Event) -> None:
        self._tags(self.run_id, event["values"])

    def _on_params(self, event: Event) -> None:
        """New parameters only: MLflow refuses to change one, and a resumed run has the same ones."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = {key: str(value)[:VALUE_CHARS] for key, value in event["values"].items()}
        rows = [Param(key, value) for key, value in new.items() if key not in known]
        for i in range(0, len(rows), BATCH_PARAMS):
            self.client.log_batch(self.run_id, params=rows[i : i + BATCH_PARAMS])
        changed = sorted(key for key, value in new.items() if known.get(key, value) != value)
        if changed:
            self._tags(self.run_id, {"longtake.changed_params": ", ".join(changed)})

    def _on_artifact(self, event: Event) -> None:
        self._upload(self.run_id, event)

    def _on_pipeline_artifact(self, event: Event) -> None:
        self._upload(self.parent, event)

    def _on_pipeline_metrics(self, event: Event) -> None:
        self._metrics(self.parent, [event])

    def _on_model(self, event: Event) -> None:
        """Log the encoder, unless other weights stand there by now."""
        from components.common.hashing import file_hash
        from components.common.tracking.models import log_encoder_model

        weights = Path(event["path"]) / "encoder.safetensors"
        if not weights.exists() or file_hash(weights) != event["sha256"]:
            self._tags(self.run_id, {"longtake.model_missing": f"{event['path']} has changed before it was sent"})
            return
        log_encoder_model(store.tracking_uri(), self.run_id, weights.parent, event["name"])

    def _on_end(self, event: Event) -> None:
        if event["reason"]:
            self._tags(self.run_id, {"longtake.reason": event["reason"][:VALUE_CHARS]})
        if self.start["attach"]:
            return  # whoever opened the run closes it
        self.client.set_terminated(self.run_id, event["status"], end_time=event["time_ms"])
        if self.parent != self.run_id:
            self.client.set_terminated(self.parent, event["status"], end_time=event["time_ms"])

    def _upload(self, run_id: str, event: Event) -> None:
        file = self.journal.folder / event["path"]
        if file.exists():
            self.client.log_artifact(run_id, os.fspath(file), event["folder"] or None)

    def _tags(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in values.items()])
