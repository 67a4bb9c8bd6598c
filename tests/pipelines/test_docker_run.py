"""The compiled pipeline in real containers: the same bytes as `dvc repro`, to a promoted model in a real MLflow."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from components.common.hashing import tree_hash
from pipelines.workspace import make_workspace, merged_params
from tests.pipelines.tiny import ROOT, TINY, environment, repro, results

SMALL = {
    "methods": ["random", "dino"],
    "tasks": ["knn", "vos"],
    "datasets": {"sample": "raw", "knn": "benchmarks", "vos": "benchmarks"},
    "extract_frames": {"sample": {**TINY["extract_frames"]["sample"], "parts": 2}},
    "promote": {"rank_by": ["vos"], "must_beat": {}, "must_not_lose": {"vos": {"margin": 1.0}}},
}
pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, docker_images):
    """A recipe and the images' names, as files."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **SMALL}))
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"images": docker_images}))
    return folder


def command(settings, workspace, *more):
    where = ["--recipe", str(settings / "tiny.yaml"), "--cluster", str(settings / "cluster.yaml")]
    return [sys.executable, "-m", "pipelines.run", "--local", *where, "--workspace", str(workspace), *more]


@pytest.fixture(scope="module")
def in_docker(settings, tmp_path_factory):
    """A run killed in the middle and started again; its output is that of the second."""
    workspace = tmp_path_factory.mktemp("docker")
    log = settings / "first.log"
    with log.open("w") as file:
        first = subprocess.Popen(
            command(settings, workspace), cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
        end = time.monotonic() + 900
        while "Task 'download-vos' finished" not in log.read_text() and first.poll() is None:
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(1)
        assert first.poll() is None, log.read_text()[-3000:]
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    second = subprocess.run(command(settings, workspace), cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout[-6000:] + second.stderr[-3000:]
    return workspace, second


def test_the_results_are_those_of_dvc_repro_byte_for_byte(in_docker, settings, tmp_path):
    workspace, _ = in_docker
    laptop = make_workspace(tmp_path / "laptop", merged_params(settings / "tiny.yaml", []))
    done = repro(laptop)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    expected = results(laptop)
    assert {path.split("/")[0] for path in expected} == {"data", "models", "metrics", "results"}
    assert results(workspace) == expected
    assert tree_hash(workspace / "report" / "leaderboard.json") == tree_hash(laptop / "report" / "leaderboard.json")


def test_a_model_is_promoted_and_every_task_is_a_run(in_docker):
    from mlflow.tracking import MlflowClient

    workspace, done = in_docker
    decision = json.loads((workspace / "promotion" / "decision.json").read_text())
    assert decision["outcome"] == "promoted"
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    assert client.get_model_version_by_alias("longtake-encoder", "champion").version in (1, "1")
    runs = client.search_runs([client.get_experiment_by_name("longtake").experiment_id], max_results=200)
    (parent,) = [run for run in runs if run.data.tags.get("stage") == "pipeline"]
    assert (parent.info.status, parent.data.tags["longtake.outcome"]) == ("FINISHED", "FINISHED")
    names = {run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert {"pretrain@dino", "evaluate@dino-vos", "extract_frames@sample", "compare", "promote"} <= names
    assert "Promotion   promoted" in done.stdout


def test_what_was_finished_before_the_kill_was_not_run_again(in_docker, settings):
    _, done = in_docker
    assert "[download@vos] done" in (settings / "first.log").read_text()
    assert "[download@vos] done" not in done.stdout
    assert "[pretrain@dino] done" in done.stdout


def test_a_failing_task_is_shown_and_mlflow_knows_it_failed(settings, tmp_path):
    """`clips: 0` passes no model check: nothing of it is half-written, and the exit task still runs."""
    from mlflow.tracking import MlflowClient

    wrong = ["--set", "extract_frames.sample.max_bad_share=0.5", "--set", "download.sample.keyframe_s=-1"]
    done = subprocess.run(command(settings, tmp_path, *wrong), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "run: the pipeline has failed" in done.stderr
    assert "download: 'keyframe_s' = -1" in done.stdout
    assert not (tmp_path / "data").exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("longtake").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("stage") == "pipeline"]
    assert parent.info.status == "FAILED"


def test_without_an_engine_or_an_image_the_way_out_is_named(settings, tmp_path):
    env = {**environment(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    done = subprocess.run(command(settings, tmp_path / "w"), cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no Docker engine answers" in done.stderr and "make repro" in done.stderr
    (tmp_path / "other.yaml").write_text("images: {data: longtake/none:none, train: longtake/none:none}\n")
    without = command(settings, tmp_path / "w")
    without[without.index("--cluster") + 1] = str(tmp_path / "other.yaml")
    done = subprocess.run(without, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "longtake/none:none" in done.stderr and "make images" in done.stderr
