"""The sending side of tracking: reads journals and brings MLflow up to date, in batches, as often as needed.

Sending twice does no harm: a run is found again by its uid, and MLflow keeps equal (key, step, time, value) once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.tracking import store
from components.common.tracking.journal import Event, Journal, follower_lock, now_ms, pending

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

BATCH_METRICS = 500  # MLflow takes 1000 metrics, 100 params, 100 tags in one call
BATCH_PARAMS = 100
VALUE_CHARS = 500  # MLflow 2's limit of a parameter's value; later servers take more
POLL_S = 1.0
AWAY_S = 30.0  # wait between tries at a server that does not answer
CLAIM_S = 60.0  # wait for the run that another process has claimed, and may have died before making
UID_TAG = "longtake.uid"
PARENT_TAG = "mlflow.parentRunId"


def forward(journal: Journal, folder: Path) -> None:
    """Send a live journal until its run ends, then whatever else is pending below `folder`."""
    line, wait = Line(), 0.0
    while not _finished(journal):
        time.sleep(POLL_S)
        if time.monotonic() >= wait and line.send(journal):
            wait = time.monotonic() + AWAY_S
    if not line.send(journal):
        sync(folder, line)


def follow(folder: Path) -> None:
    """Send every journal below `folder` until SIGTERM: one process for a whole pipeline instead of one a stage."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage; its end is still to be sent
    folder.mkdir(parents=True, exist_ok=True)
    line = Line()
    with follower_lock(folder) as mine:
        while mine and not stop.wait(POLL_S):
            if sync(folder, line):
                stop.wait(AWAY_S)
    sync(folder, line)


def sync(folder: Path, line: Line | None = None) -> list[tuple[str, str]]:
    """Send every pending journal below `folder`; returns (uid, trouble) of those that could not be sent."""
    line = line or Line()
    tried = [(journal.folder.name, line.send(journal)) for journal in pending(folder)]
    return [(uid, trouble) for uid, trouble in tried if trouble]


class Line:
    """A connection to the store, made on first use and kept."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None

    def send(self, journal: Journal) -> str:
        """Send what is new in a journal; returns what went wrong, or nothing. Whatever it was, the next try goes on."""
        try:
            self._client = self._client or store.client()
            send(self._client, journal)
        except Exception as error:  # a forwarder must outlive any server
            self._client = None
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"{journal.folder.name}: not sent, {trouble}", flush=True)
            return trouble
        return ""


def _finished(journal: Journal) -> bool:
    """The run has ended, or its process has died without saying so."""
    last = journal.last()
    return last is not None and (last["kind"] == "end" or not journal.owned)


def send(client: MlflowClient, journal: Journal) -> None:
    """Bring MLflow up to date with one journal; raises whatever the server raises, having kept its place."""
    first = journal.first()
    if first is None:
        return
    with journal.sending():
        state = journal.state
        events, offset = journal.read(state.offset)
        if not state.run_id:
            state.run_id = _run_of(client, first)
            journal.save(state)
        if events:
            _Sender(client, journal, state.run_id, first).send(events)
            state.offset, state.done = offset, events[-1]["kind"] == "end"
            journal.save(state)
        if state.done or journal.owned:
            return
        last = journal.last()  # read after `owned`: nobody writes any more
        if last and last["kind"] != "end":
            # killed outright, it wrote no end; a resume opens the run again
            client.set_terminated(state.run_id, "KILLED", end_time=last["time_ms"])
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
    """The run tagged with `uid`; several stages may ask for the same new one at once.

    An embedded store is locked meanwhile. On a server, pods that start side by side would each make the pipeline's run,
    so the one that claims the uid makes it and the others wait for it.
    """
    with store.store_lock(store.tracking_uri()):
        if found := _runs_of(client, experiment, uid):
            return found[0]
        if store.tracking_uri().startswith("sqlite:") or _claim(client, uid):
            return _create(client, experiment, uid, name, tags, start_ms)
    until = time.monotonic() + CLAIM_S
    while time.monotonic() < until:
        if found := _runs_of(client, experiment, uid):
            return found[0]
        time.sleep(POLL_S)
    return _create(client, experiment, uid, name, tags, start_ms)  # whoever claimed it has died


def _create(client: MlflowClient, experiment: str, uid: str, name: str, tags: dict[str, str], start_ms: int) -> str:
    run = client.create_run(experiment, start_time=start_ms, tags={**tags, UID_TAG: uid}, run_name=name)
    return str(run.info.run_id)


def _claim(client: MlflowClient, uid: str) -> bool:
    """Whether this process is the first to ask for the run of `uid`.

    The name of an experiment is all that MLflow keeps unique by itself (runs may share every tag), also when the
    experiment is deleted: one is made and deleted at once, so nobody sees it.
    """
    from mlflow.exceptions import MlflowException

    try:
        claim = client.create_experiment(f"{store.experiment_name()}/claim/{uid}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    client.delete_experiment(claim)
    return True


def _runs_of(client: MlflowClient, experiment: str, uid: str) -> list[str]:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", order_by=order)
    return [str(run.info.run_id) for run in found]


def end_pipeline(uid: str, status: str, reason: str, revision: str) -> str:
    """Close the run of a whole pipeline as FINISHED, FAILED or KILLED, with the reason; returns its run id."""
    from mlflow.entities import RunTag

    client = store.client()
    run_id = pipeline_run(client, uid, {"git_revision": revision})
    values = {"longtake.outcome": status, "longtake.reason": reason[:VALUE_CHARS]}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items() if value])
    client.set_terminated(run_id, status)
    return run_id


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

    def _on_pipeline_tags(self, event: Event) -> None:
        self._tags(self.parent, event["values"])

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

    def _on_judged(self, event: Event) -> None:
        from components.common.tracking.judged import log_judged

        log_judged(self.client, self.run_id, event, self.journal.folder.parent, send)

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
