"""From video files to a promoted encoder, with the real DVC, ffmpeg and MLflow."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.pipelines import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tiny.tiny_workspace(tmp_path_factory.mktemp("repro") / "world")
    done = tiny.repro(folder, LONGTAKE_TRACKING="on", LONGTAKE_PIPELINE_RUN="tiny-1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    sync = [sys.executable, "-m", "components.common.tracking", "sync"]
    subprocess.run(sync, cwd=folder, env=tiny.environment(folder), check=True)
    return folder


@pytest.fixture(scope="module")
def client(world):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{world / 'mlflow.db'}")
    return mlflow.MlflowClient()


@pytest.fixture(scope="module")
def runs(client):
    experiment = client.get_experiment_by_name("longtake")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], max_results=200)}


def test_running_again_does_nothing_and_says_so(world):
    again = tiny.repro(world)
    assert "Data and pipelines are up to date" in again.stdout
    assert "Running stage" not in again.stdout


def test_the_same_parameters_give_the_same_bytes(world, tmp_path):
    other = tiny.tiny_workspace(tmp_path / "other", methods=["dino"])
    done = tiny.repro(other, "evaluate@dino-knn", "evaluate@dino-vos", "evaluate@dino-voc_linear")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ours, theirs = tiny.results(world), tiny.results(other)
    assert "models/dino" in theirs
    assert {name: ours[name] for name in theirs} == theirs


def test_every_stage_is_a_run_below_the_pipelines(world, runs):
    from pipelines.dag import read_dag

    names = {node.name for node in read_dag(world).nodes}
    assert names <= set(runs)
    parent = runs["tiny-1"].info.run_id
    for name in names:
        run = runs[name]
        assert run.info.status == "FINISHED", name
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.tags["stage"] == name.partition("@")[0]
        assert run.data.params["seed"] == "0"


def test_training_curves_and_scores_are_metrics(client, runs):
    history = client.get_metric_history(runs["pretrain@dino"].info.run_id, "loss")
    assert [m.step for m in sorted(history, key=lambda m: m.step)] == [1, 2, 3, 4, 5, 6]
    assert any("top1" in key for key in runs["evaluate@dino-knn"].data.metrics)
    assert any("jf" in key for key in runs["evaluate@dino-vos"].data.metrics)


def test_models_are_logged_and_one_is_registered(client, world, runs):
    models = client.search_logged_models([runs["pretrain@dino"].info.experiment_id])
    assert {model.source_run_id for model in models} >= {runs["pretrain@dino"].info.run_id}
    assert client.get_model_version_by_alias("longtake-encoder", "candidate").version in (1, "1")


def test_a_registered_model_embeds_images_and_timm_loads_the_same_file(world, client, monkeypatch):
    import mlflow

    monkeypatch.chdir(world)
    version = client.get_model_version_by_alias("longtake-encoder", "candidate")
    model = mlflow.pyfunc.load_model(f"models:/longtake-encoder/{version.version}")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    embeddings = np.asarray(model.predict(images))
    assert embeddings.shape == (3, 32)
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(np.asarray(model.predict(images[1:2])), embeddings[1:2], atol=1e-5)


def test_the_report_and_the_decision_are_there(world):
    page = (world / "report" / "index.html").read_text(encoding="utf-8")
    assert "dino" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page.replace('href="https://arxiv.org', ""))
    board = json.loads((world / "report" / "leaderboard.json").read_text(encoding="utf-8"))
    assert board
    decision = json.loads((world / "promotion" / "decision.json").read_text(encoding="utf-8"))
    assert decision["outcome"] in ("promoted", "kept")
    assert decision["reason"]


def test_a_change_runs_only_what_it_concerns(world, tmp_path):
    import yaml

    params = yaml.safe_load((world / "params.yaml").read_text())
    params["evaluate"]["vos"]["top_k"] = 3
    (world / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    dry = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--dry"],
        cwd=world,
        env=tiny.environment(world),
        capture_output=True,
        text=True,
    )
    ran = {line.split("'")[1] for line in dry.stdout.splitlines() if line.startswith("Running stage")}
    assert {"evaluate@random-vos", "evaluate@dino-vos", "evaluate@dora-vos"} <= ran
    assert not any(name.startswith(("download", "extract", "index", "pretrain", "evaluate@dino-knn")) for name in ran)
