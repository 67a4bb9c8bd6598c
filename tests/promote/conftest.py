"""A small world of real encoders and metrics files, and an MLflow store of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {
    "patch_size": 8,
    "img_size": 32,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 0,
    "dynamic_img_size": True,
}
PARAMS = {
    "model": "tiny",
    "rank_by": ["knn", "vos"],
    "must_beat": {"vos": {"margin": 0.0}},
    "must_not_lose": {"knn": {"margin": 0.02}},
    "exclude": ["random"],
}


class World:
    """metrics/, models/ and params.yaml below one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.metrics, self.models = root, root / "metrics", root / "models"
        self.decision, self.params = root / "promotion" / "decision.json", root / "params.yaml"
        self.metrics.mkdir()
        self.set_params(PARAMS)

    def set_params(self, promote: dict[str, Any]) -> None:
        self.params.write_text(json.dumps({"seed": 0, "promote": promote}))  # JSON is YAML

    def model(self, run: str, seed: int = 0) -> str:
        """Write models/<run> with a real timm encoder; returns the hash of its weights."""
        import timm
        import torch
        from safetensors.torch import save_file

        folder = self.models / run
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = timm.create_model(ARCHITECTURE, **MODEL_ARGS)
        save_file(encoder.state_dict(), folder / "encoder.safetensors")
        config = {
            "architecture": ARCHITECTURE,
            "model_args": MODEL_ARGS,
            "num_features": 16,
            "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32]},
            "longtake": {"method": run, "run": run},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "README.md").write_text(f"# {run}\n\nA tiny encoder.\n")
        return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()

    def score(self, run: str, task: str, value: float, **changes: Any) -> None:
        """Write metrics/<run>-<task>.json for the weights of models/<run>."""
        weights = self.models / run / "encoder.safetensors"
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "0" * 64
        document = {
            "method": run,
            "task": task,
            "protocol": "tiny",
            "metrics": {"main": value, "other": value / 2},
            "primary": "main",
            "higher_is_better": True,
            "encoder_sha256": sha256,
            "benchmark_hash": "b" * 32,
            "seed": 0,
            "params": {"top_k": 5},
            "data_variant": "sample",
        }
        (self.metrics / f"{run}-{task}.json").write_text(json.dumps({**document, **changes}))

    def run(self, name: str, knn: float, vos: float, seed: int = 0) -> None:
        """A model with its two scores."""
        self.model(name, seed)
        self.score(name, "knn", knn)
        self.score(name, "vos", vos)

    def clear(self) -> None:
        """Forget all metrics: the next ones are a new pipeline's."""
        for file in self.metrics.iterdir():
            file.unlink()

    @property
    def argv(self) -> list[str]:
        return ["--params", str(self.params), "--metrics", str(self.metrics), "--models", str(self.models)]

    def decided(self) -> dict[str, Any]:
        return dict(json.loads(self.decision.read_text()))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> World:
    """A World whose MLflow store is a fresh SQLite file; stages run without forwarding."""
    import shutil

    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(mlflow_database, home / "mlflow.db")
    monkeypatch.setenv("LONGTAKE_HOME", str(home))
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    return World(tmp_path)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated MLflow database: making one takes seconds, copying it none."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    return file
