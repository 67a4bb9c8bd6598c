"""Where runs are kept: MLFLOW_TRACKING_URI, else an SQLite file and a folder beside the pipeline."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.outputs import put_in_place, remove, stage_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "longtake"
PASSWORD = re.compile(r"//[^/@\s]*@")
# Nothing is unpickled, nothing is reported to anyone, and no address of an inner run is printed among a stage's lines.
ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# A server that is away is noticed in seconds; the journal holds what it misses.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def tracking_uri() -> str:
    """The tracking server, or `sqlite:///<LONGTAKE_HOME or working folder>/mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def exists() -> bool:
    """Whether there is a store to read, without making an empty one."""
    uri = tracking_uri()
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def shown(text: str) -> str:
    """An address, or a message that holds one, without a password."""
    return PASSWORD.sub("//", text)


def home() -> Path:
    """The folder of the embedded store."""
    return Path(os.environ.get("LONGTAKE_HOME", ".")).absolute()


def experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)


def client() -> MlflowClient:
    """An MLflow client on a store that exists.

    An SQLite database is created under a file lock: two processes that migrate the same fresh file break it.
    """
    for key, value in {**ENVIRONMENT, **PATIENCE}.items():
        os.environ.setdefault(key, value)
    import mlflow
    from mlflow.tracking import MlflowClient

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    with store_lock(uri):
        _create(uri)
        return MlflowClient(tracking_uri=uri)


def _create(uri: str) -> None:
    """Make a fresh SQLite store beside its place and rename it in.

    MLflow migrates a new file through dozens of versions; a process killed meanwhile would leave one that MLflow
    refuses for good ("out-of-date database schema").
    """
    from mlflow.tracking import MlflowClient

    file = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or file.exists():
        return
    partial = stage_path(file)
    for left in (partial, partial.with_name(f"{partial.name}-journal")):
        remove(left)
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    put_in_place(partial, file)


def experiment_id(client: MlflowClient) -> str:
    """The experiment of this project, made on first use."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name, uri = experiment_name(), tracking_uri()
    with store_lock(uri):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = (home() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        return str(client.create_experiment(name, artifact_location=place))


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Exclusive use of an embedded store; a server arbitrates by itself."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    file = Path(uri.removeprefix("sqlite:///") + ".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
