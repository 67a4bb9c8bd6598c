"""An API that refuses, stutters or is away, and a launcher that is cancelled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from components.common.errors import ExitCode
from components.common.launch.__main__ import main
from tests.common.kube_api import KubeApi, status
from tests.common.launch.trainjob_world import ROOT, World, ends_well, running

FORBIDDEN = status(403, "Forbidden", 'trainjobs.trainer.kubeflow.org is forbidden: User "x" cannot create')
NO_RUNTIME = status(403, "Forbidden", 'admission webhook "validator" denied the request: runtime not found')
OLD = status(400, "BadRequest", 'strict decoding error: unknown field "spec.runtimePatches"')
AWAY = status(503, "ServiceUnavailable", "apiserver is shutting down")
REFUSALS = [
    ([("POST trainjobs", 403, FORBIDDEN)], "no right to create", "pipelines.trainJobs.enabled=true"),
    ([("GET pods?", 403, FORBIDDEN), ("GET pods", 403, FORBIDDEN)], "no right to", "the service account"),
    ([("POST trainjobs", 403, NO_RUNTIME)], "runtime not found", "Kubernetes refused to create"),
    ([("POST trainjobs", 400, OLD)], "older than 2.2", "upgrade"),
    ([("POST trainjobs", 422, status(422, "Invalid", "quota exceeded"))], "quota exceeded", "refused to create"),
]


@pytest.mark.parametrize(("refusals", "words", "do"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_a_refusal_says_what_to_do(
    refusals: list[Any], words: str, do: str, world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refusals = list(refusals)
    assert world.launch() == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and do in error and error.count("\n") == 1


def test_a_cluster_without_trainer_says_so(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.installed = False
    assert world.launch() == ExitCode.BAD_INPUT
    assert "this cluster has no TrainJobs" in capsys.readouterr().err


def test_an_api_that_stutters_costs_nothing(world: World, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.common.launch.kube.AGAIN_AFTER_S", 0.01)
    api.refusals = [("POST trainjobs", 503, AWAY), ("GET trainjobs", 429, AWAY), ("GET pods", 500, AWAY)]
    api.refusals += [(f"GET pods/{name}", 500, AWAY) for name in ("pretrain",)]  # a log that does not come
    api.script = ends_well(world)
    assert world.launch(api_away_s=30) == ExitCode.OK


def test_an_api_that_is_away_leaves_the_job_to_the_next_try(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.script = [running, lambda api: api.refusals.extend([("GET", 503, AWAY)] * 1000)]
    assert world.launch() == ExitCode.UNREACHABLE
    assert "the Kubernetes API does not answer, 503" in capsys.readouterr().err
    assert api.jobs and not [asked for asked in api.asked if asked.startswith("DELETE")]


def test_no_cluster_at_all(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.close()
    assert world.launch() == ExitCode.UNREACHABLE
    assert "does not answer" in capsys.readouterr().err
    monkeypatch.setenv("KUBECONFIG", str(world.folder / "nothing"))
    assert world.launch() == ExitCode.BAD_INPUT
    assert "several nodes need a Kubernetes cluster" in capsys.readouterr().err


def test_what_cannot_work_is_refused_before_anything_is_asked(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(cache_pvc=None) == ExitCode.BAD_INPUT
    assert "a cache that all of them see" in capsys.readouterr().err
    world.stage[world.stage.index("--frames") + 1] = "/local/frames"
    assert world.launch() == ExitCode.BAD_INPUT
    assert "the nodes cannot read '--frames', it is in no S3 store: /local/frames" in capsys.readouterr().err
    world.stage[2] = "components.common.errors"
    assert world.launch() == ExitCode.BAD_INPUT
    assert "not a stage" in capsys.readouterr().err
    assert world.launch(memory_gb=3) == ExitCode.BAD_INPUT
    assert "did you mean 'memory_gib'" in capsys.readouterr().err
    assert main(["--nodes", "2", "--", "python", "-m", "x"]) == ExitCode.BAD_INPUT
    assert "several nodes need --settings" in capsys.readouterr().err
    assert not api.asked


def test_a_cancelled_launcher_takes_its_job_along(world: World, api: KubeApi) -> None:
    api.on_create = running
    command = [sys.executable, "-m", "components.common.launch", *world.arguments()]
    launcher = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not [asked for asked in api.asked if asked.startswith("GET pods?") or asked == "GET pods"]:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == ExitCode.INTERRUPTED and "interrupted" in error and error.count("\n") == 1
    assert not api.jobs
