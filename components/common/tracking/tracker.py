"""The writing side of tracking: what a stage calls. It never talks to a server and imports no mlflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from components.common.errors import StageError
from components.common.tracking.journal import Journal, is_followed

SYSTEM_EVERY_S = 10.0  # MLflow's own interval of system metrics
WAIT_S = 30.0  # longest a finished stage waits for its forwarder; what is left is sent later


class Tracker:
    """Metrics, parameters, tags, artifacts and models of one execution. Without an open run it does nothing."""

    def __init__(self) -> None:
        self._journal: Journal | None = None
        self.uid = ""
        self.renamed: dict[Path, Path] = {}  # staged output -> where it will stand
        self._outcome = ("FINISHED", "")  # status and reason of a run that comes to its end

    @contextmanager
    def run(self, name: str, *, uid: str, folder: Path, tags: Mapping[str, str]) -> Iterator[None]:
        """Open the journal `folder/uid`; end it as FINISHED, FAILED or KILLED with the block."""
        self.uid, self._journal = uid, Journal(folder / uid)
        self._journal.own()
        attach = os.environ.get("MLFLOW_RUN_ID", "")  # a run opened by others, to be used instead of one of our own
        self._append("start", name=name, uid=uid, tags={**tags, **common_tags()}, attach=attach)
        stop = threading.Event()
        threading.Thread(target=self._watch, args=(stop,), daemon=True).start()
        forwarder = start_forwarder(self._journal, folder)
        status, reason = self._outcome = ("FINISHED", "")
        try:
            yield
            status, reason = self._outcome
        except BaseException as error:
            status, reason = status_of(error)
            raise
        finally:
            stop.set()
            self._append("end", status=status, reason=reason)
            self._journal.sync()
            self._journal.close()
            _wait(forwarder)
            self._journal = None

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log scalars at a step (an optimiser step, an epoch, or 0 for a summary)."""
        self._append("metrics", step=step, values={key: float(value) for key, value in values.items()})

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters beside those of params.yaml."""
        self._append("params", values={key: str(value) for key, value in values.items()})

    def tag(self, key: str, value: str) -> None:
        self._append("tags", values={key: value})

    def failed(self, reason: str) -> None:
        """The run ends as FAILED although its stage goes to its end: what it found is that it cannot be done."""
        self._outcome = ("FAILED", reason)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file; it is copied at once, since the stage may be gone when it is sent."""
        if self._journal is None:
            return
        copy = self._journal.folder / "files" / folder / self._name(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        self._append("artifact", path=str(copy.relative_to(self._journal.folder)), folder=folder)

    def _name(self, path: Path) -> str:
        """A staged file goes by the name it will have in its place."""
        return self.renamed.get(path.absolute(), path).name

    def pipeline_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file to the pipeline's run (the report of all methods belongs to no single stage)."""
        self.artifact(path, folder)
        self._append("pipeline_artifact", path=str(Path("files") / folder / self._name(path)), folder=folder)

    def pipeline_metrics(self, values: Mapping[str, float]) -> None:
        """Log scalars to the pipeline's run."""
        self._append("pipeline_metrics", values={key: float(value) for key, value in values.items()})

    def pipeline_tag(self, key: str, value: str) -> None:
        """Tag the pipeline's run."""
        self._append("pipeline_tags", values={key: value})

    def model(self, folder: Path, name: str, sha256: str) -> None:
        """Log an encoder folder as a LoggedModel of this run, once it stands in its place."""
        place = self.renamed.get(folder.absolute(), folder)
        self._append("model", path=str(place.absolute()), name=name, sha256=sha256)

    def judged(self, score: Mapping[str, Any], origin: str, *, folder: bool) -> None:
        """Link this run to the encoder that it judged.

        Args:
            score: the metrics file's content (see scores.py).
            origin: where the encoder's weights come from, in words.
            folder: whether the encoder is a model folder, which MLflow holds or will hold.
        """
        self._append("judged", score=dict(score), origin=origin, folder=folder)

    def _append(self, kind: str, **content: Any) -> None:
        if self._journal is not None:
            self._journal.append(kind, **content)

    def _watch(self, stop: threading.Event) -> None:
        process = psutil.Process()
        process.cpu_percent()
        while not stop.wait(SYSTEM_EVERY_S):
            figures = {"system/cpu_percent": process.cpu_percent(), "system/rss_gib": process.memory_info().rss / 2**30}
            self.metrics({**figures, "system/cpu_machine_percent": psutil.cpu_percent()}, step=0)


def common_tags() -> dict[str, str]:
    """Git revision and pipeline run of this execution."""
    return {"git_revision": git_revision(), "pipeline_run": os.environ.get("LONGTAKE_PIPELINE_RUN", "")}


def git_revision() -> str:
    """LONGTAKE_GIT_REVISION (images and workspaces have no .git), else HEAD with `-dirty` where it applies."""
    if given := os.environ.get("LONGTAKE_GIT_REVISION"):
        return given
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def status_of(error: BaseException) -> tuple[str, str]:
    """MLflow's status and a one-line reason for how a run ended."""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "interrupted"
    return "FAILED", str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}"


def start_forwarder(journal: Journal, folder: Path) -> subprocess.Popen[bytes] | None:
    """Start the process that sends this journal (and those left over).

    None where LONGTAKE_TRACKING=off, or where a pipeline's follower sends them all.
    """
    if os.environ.get("LONGTAKE_TRACKING") == "off" or is_followed(folder):
        return None
    command = [sys.executable, "-m", "components.common.tracking", "forward", str(journal.folder), str(folder)]
    package_root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package_root), os.environ.get("PYTHONPATH", "")])}
    env.pop("MLFLOW_RUN_ID", None)  # the journal says which run it is; mlflow must not open one by itself
    with (folder / "forwarder.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)


def _wait(forwarder: subprocess.Popen[bytes] | None) -> None:
    if forwarder is None:
        return
    try:
        forwarder.wait(float(os.environ.get("LONGTAKE_TRACKING_WAIT_S", WAIT_S)))
    except subprocess.TimeoutExpired:
        forwarder.terminate()  # the journal is whole: the next stage, or `sync`, sends the rest
