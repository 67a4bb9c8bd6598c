"""The exit task against a real MLflow server, and pods that start side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.server import mlflow

pytestmark = pytest.mark.slow  # a server, and processes that import MLflow


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow(tmp_path_factory.mktemp("server")) as address:
        yield address


def python(uri: str, cache: Path, run: str, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"MLFLOW_TRACKING_URI": uri, "LONGTAKE_CACHE": str(cache), "LONGTAKE_PIPELINE_RUN": run}
    env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=120)


def finish(uri: str, cache: Path, run: str, status: str) -> subprocess.CompletedProcess[str]:
    words = ("-m", "components.common.tracking", "finish", "--status", status, "--revision", "abc")
    return python(uri, cache, run, *words)


def test_how_a_pipeline_ended_is_recorded(uri: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    assert finish(uri, tmp_path, "good", json.dumps({"state": "SUCCEEDED"})).returncode == 0
    error = {"state": "FAILED", "error": {"code": 9, "message": "promote failed"}}
    assert finish(uri, tmp_path, "bad", json.dumps(error)).returncode == 0
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("longtake").experiment_id])
    ended = {run.info.run_name: (run.info.status, run.data.tags.get("longtake.reason")) for run in runs}
    assert ended == {"good": ("FINISHED", None), "bad": ("FAILED", "promote failed")}


@pytest.mark.parametrize(
    ("address", "status", "code", "line"),
    [
        ("", "{{$.status}}", 2, "finish: not a final status of Kubeflow"),
        ("http://127.0.0.1:9", '{"state": "SUCCEEDED"}', 1, "finish: FINISHED, but MLflow did not take it"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path: Path, address: str, status: str, code: int, line: str) -> None:
    done = finish(address or f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "x", status)
    assert done.returncode == code
    assert line in done.stderr and "Traceback" not in done.stderr


def test_pods_side_by_side_share_one_pipeline_run(uri: str, tmp_path: Path) -> None:
    code = (
        "from components.common.tracking import forward, store; "
        "print(forward.pipeline_run(store.client(), 'together', {}))"
    )
    with ThreadPoolExecutor(6) as pods:
        told = list(pods.map(lambda i: python(uri, tmp_path / str(i), "together", "-c", code), range(6)))
    assert {one.returncode for one in told} == {0}, told[0].stderr
    assert len({one.stdout.split()[-1] for one in told}) == 1
