"""Scores on the models they judge, and registered encoders judged by name, in a real SQLite store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from components.common import registered
from components.common.encoder import load_encoder
from components.common.errors import ExitCode, StageError
from components.common.model_folder import write_model_folder
from components.common.scores import Score
from components.common.tracking import Tracker, store
from components.common.tracking.forward import send, sync
from components.common.tracking.journal import Journal
from components.common.tracking.models import NO_WEIGHTS_TAG, log_encoder_model
from tests.evaluate.small import evaluate, imagenet

ARCHITECTURE = "vit_tiny_patch16_224"
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty, migrated MLflow database: making one takes seconds."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    return file.read_bytes()


@pytest.fixture
def home(database: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store of its own; journals are sent when the test says so."""
    (tmp_path / "mlflow.db").write_bytes(database)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LONGTAKE_HOME", str(tmp_path))
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    return tmp_path


def model_folder(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, **ARGS, num_classes=0, dynamic_img_size=True)
    write_model_folder(folder, model, architecture=ARCHITECTURE, model_args=ARGS, longtake={"run": folder.name})
    return folder


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


def score(weights: str, value: float, method: str = "dino", **changes: Any) -> dict[str, Any]:
    known = {
        "method": method,
        "task": "vos",
        "protocol": "dino propagation",
        "metrics": {"jf_mean": value, "j_mean": value / 2},
        "primary": "jf_mean",
        "encoder_sha256": weights,
        "benchmark_hash": "b" * 32,
        "params": {"top_k": 5},
        "data_variant": "val",
    }
    return {**known, **changes}


def judge(home: Path, uid: str, document: dict[str, Any], folder: bool = True) -> None:
    """One evaluation's run, journalled and sent."""
    tracker = Tracker()
    with tracker.run(uid, uid=uid, folder=home / "cache/tracking", tags={"stage": "evaluate"}):
        tracker.judged(document, "somewhere", folder=folder)
    assert sync(home / "cache/tracking") == []


def pretrained(home: Path, name: str, seed: int) -> tuple[str, str]:
    """A model folder, logged by the run that made it: (weights' hash, LoggedModel)."""
    client = store.client()
    folder = model_folder(home / "models" / name, seed)
    run = client.create_run(store.experiment_id(client), tags={"stage": "pretrain"}).info.run_id
    return sha256(folder), log_encoder_model(store.tracking_uri(), run, folder, name)


def run_of(uid: str) -> Any:
    client = store.client()
    (found,) = client.search_runs([store.experiment_id(client)], f"tags.`longtake.uid` = '{uid}'")
    return client.get_run(found.info.run_id)  # a search leaves inputs out


def test_mlflow_ranks_models_by_a_task_and_never_mixes_settings(home: Path) -> None:
    client = store.client()
    (worse, first), (better, second) = pretrained(home, "dino", 0), pretrained(home, "ibot", 1)
    judge(home, "one", score(worse, 0.5))
    judge(home, "two", score(better, 0.6, "ibot"))
    judge(home, "three", score(worse, 0.9, protocol="cropmae propagation"))
    for uid, model in (("one", first), ("two", second), ("three", first)):
        run = run_of(uid)
        assert [entry.model_id for entry in run.inputs.model_inputs] == [model]
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.name.startswith("vos: ") and json.loads(data.dataset.source)["benchmark_hash"] == "b" * 32
    setting = Score(**score(worse, 0.5)).setting
    column = {"dataset_name": "vos: dino propagation", "dataset_digest": setting}
    ordered = client.search_logged_models(
        [store.experiment_id(client)],
        order_by=[{"field_name": "metrics.vos/jf_mean", "ascending": False, **column}],
    )
    assert [model.model_id for model in ordered] == [second, first]  # 0.9 is another protocol's
    found = {(m.key, m.dataset_name, m.value) for m in client.get_logged_model(first).metrics}
    assert found == {
        ("vos/jf_mean", "vos: dino propagation", 0.5),
        ("vos/j_mean", "vos: dino propagation", 0.25),
        ("vos/jf_mean", "vos: cropmae propagation", 0.9),
        ("vos/j_mean", "vos: cropmae propagation", 0.45),
    }


def test_sending_again_changes_nothing(home: Path) -> None:
    weights, model = pretrained(home, "dino", 0)
    judge(home, "one", score(weights, 0.5))
    before = [(m.key, m.value) for m in store.client().get_logged_model(model).metrics]
    (home / "cache/tracking/one/state.json").unlink()
    assert sync(home / "cache/tracking") == []
    assert [(m.key, m.value) for m in store.client().get_logged_model(model).metrics] == before
    assert len(run_of("one").inputs.model_inputs) == len(run_of("one").inputs.dataset_inputs) == 1


def test_a_model_is_its_trainings_though_the_score_is_sent_first(home: Path) -> None:
    client, folder = store.client(), model_folder(home / "models/dino", 0)
    for uid, stage in (("train", "pretrain"), ("judge", "evaluate")):
        tracker = Tracker()
        with tracker.run(uid, uid=uid, folder=home / "cache/tracking", tags={"stage": stage}):
            if stage == "pretrain":
                tracker.model(folder, "dino", sha256(folder))
            else:
                tracker.judged(score(sha256(folder), 0.5), "dino", folder=True)
    send(client, Journal(home / "cache/tracking/judge"))
    (model,) = client.search_logged_models([store.experiment_id(client)])
    assert (model.source_run_id, str(model.status)) == (run_of("train").info.run_id, "READY")
    assert [entry.model_id for entry in run_of("judge").inputs.model_inputs] == [model.model_id]


def test_an_encoder_that_no_run_has_logged(home: Path) -> None:
    """A model folder's stays pending until it is logged; one from elsewhere has a name and no weights until then."""
    client = store.client()
    for seed, (uid, folder) in enumerate((("own", True), ("timm", False))):
        made = model_folder(home / "models" / uid, seed)
        judge(home, uid, score(sha256(made), 0.5, uid), folder=folder)
        (entry,) = run_of(uid).inputs.model_inputs
        model = client.get_logged_model(entry.model_id)
        assert (str(model.status), NO_WEIGHTS_TAG in model.tags) == (("PENDING", False) if folder else ("READY", True))
        run = client.create_run(store.experiment_id(client)).info.run_id
        assert log_encoder_model(store.tracking_uri(), run, made, uid) == entry.model_id
        model = client.get_logged_model(entry.model_id)
        assert str(model.status) == "READY" and NO_WEIGHTS_TAG not in model.tags
        assert {m.key for m in model.metrics} == {"vos/jf_mean", "vos/j_mean"}
        files = [file.path for file in client.list_logged_model_artifacts(entry.model_id)]
        assert "MLmodel" in files


@pytest.fixture
def registry(home: Path) -> Path:
    """Two registered versions; returns the model folder of the champion, which is the first."""
    client = store.client()
    client.create_registered_model("tiny")
    for seed in range(2):
        weights, model = pretrained(home, f"m{seed}", seed)
        client.create_model_version("tiny", f"models:/{model}", model_id=model, tags={"encoder_sha256": weights})
    client.set_registered_model_alias("tiny", "champion", "1")
    return home / "models" / "m0"


def test_a_registered_encoder_is_judged_by_its_name(registry: Path, home: Path) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("models:/tiny@champion", "models:/tiny/1"):
        encoder = load_encoder(name)
        assert (encoder.sha256, encoder.origin) == (sha256(registry), "models:/tiny/1")
        torch.testing.assert_close(encoder.cls(images), load_encoder(registry).cls(images), rtol=0, atol=0)
    assert len(list((home / "cache/registered").iterdir())) == 1  # fetched once
    assert load_encoder("models:/tiny/2").sha256 == sha256(home / "models/m1")
    root = imagenet(home / "b", n_classes=2, n_train=2, n_val=1)
    assert evaluate(home, "knn", "models:/tiny@champion", root) == 0
    found = json.loads((home / "out.json").read_text())
    assert (found["encoder_origin"], found["encoder_sha256"]) == ("models:/tiny/1", sha256(registry))
    assert sync(home / "cache/tracking") == []
    client = store.client()
    (judged,) = [m for m in client.search_logged_models([store.experiment_id(client)]) if m.metrics]
    assert judged.name == "m0" and {m.key for m in judged.metrics} == {f"knn/{name}" for name in found["metrics"]}


def test_what_is_not_registered_is_one_clear_line(registry: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (
        ("models:/tinny@champion", "no registered model 'tinny', did you mean 'tiny'?"),
        ("models:/tiny@champoin", "no alias 'champoin', did you mean 'champion'?"),
        ("models:/tiny/7", "no version 7; known: 1, 2"),
        ("models:/tiny", "not a registered model's name: models:/tiny (models:/NAME@ALIAS or models:/NAME/VERSION)"),
    ):
        with pytest.raises(StageError) as error:
            load_encoder(name)
        assert said in str(error.value) and "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setattr(registered, "WEIGHTS", "other.safetensors")
        with pytest.raises(StageError, match="the version holds no encoder of ours"):
            load_encoder("models:/tiny/2")
    assert not list((home / "cache/registered").iterdir())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(StageError, match="the model registry failed") as error:
        load_encoder("models:/tiny@champion")
    assert error.value.code == ExitCode.UNREACHABLE and "secret" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/absent.db")
    with pytest.raises(StageError, match="there is no model registry"):
        load_encoder("models:/tiny@champion")
    assert not (home / "absent.db").exists()
