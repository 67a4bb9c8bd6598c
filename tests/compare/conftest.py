"""A finished pipeline in small: four runs, three tasks, curves, pictures, animations, all written as the stages do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

RUNS = ("random", "dino", "next_frame", "dora")
CLASSES = ["cat", "dog", "horse", "bicycle", "lorry", "person", "bird", "boat", "train", "mushroom"]
SEQUENCES = ["clip-000", "clip-001", "clip-002", "clip-003"]
SCORES = {
    "knn": ("top1_k10", "dino knn, 64/64 px", (0.31, 0.52, 0.49, 0.55)),
    "vos": ("jf_mean", "dino propagation, short side 96", (0.402, 0.418, 0.455, 0.441)),
    "voc_linear": ("miou", "timet linear, input 96, labels 32", (0.212, 0.287, 0.305, 0.299)),
}


class Finished:
    """metrics/, results/ and models/ below one folder."""

    def __init__(self, root: Path, fill: bool = True) -> None:
        self.root, self.rng = root, np.random.default_rng(0)
        self.metrics, self.results, self.models = root / "metrics", root / "results", root / "models"
        self.report, self.params = root / "report", root / "params.yaml"
        if fill:
            self._fill()

    def _fill(self) -> None:
        for folder in (self.metrics, self.results, self.models):
            folder.mkdir()
        self.set_params({})
        for number, run in enumerate(RUNS):
            self.model(run, steps=0 if run == "random" else 400)
            for task, (_, _, values) in SCORES.items():
                self.score(run, task, values[number])
                self.details(run, task, values[number])

    def set_params(self, compare: dict[str, Any]) -> None:
        self.params.write_text(json.dumps({"seed": 0, "compare": compare}))

    def model(self, run: str, steps: int) -> None:
        folder = self.models / run
        (folder / "pictures").mkdir(parents=True)
        weights = self.rng.normal(size=(8, 16)).astype(np.float32)
        save_file({"blocks.0.weight": weights, "norm.bias": weights[0]}, folder / "encoder.safetensors")
        config = {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"depth": 6, "embed_dim": 128, "patch_size": 8},
            "longtake": {"method": "dino" if run == "random" else run, "run": run, "params_hash": "c" * 32},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps({"step": steps, "loss": 3.2}))
        (folder / "load.py").write_text("import timm\nmodel = timm.create_model('vit_tiny_patch16_224')\n")
        t = np.linspace(0, 1, steps // 10)
        rows = ["step,epoch,lr,loss,teacher_entropy,feature_std,rankme"]
        for i, x in enumerate(t):
            noise = self.rng.normal() * 0.05
            loss = 5.5 * np.exp(-1.5 * x) + noise + len(run) * 0.1
            rank = "" if i % 4 else f"{20 + 30 * x}"
            rows.append(f"{i * 10},{x},{5e-4 * (1 - x)},{loss},{6 - 2 * x + noise},{0.2 + 0.5 * x},{rank}")
        (folder / "curves.csv").write_text("\n".join(rows) + "\n")
        if run == "dora":
            self._gif(folder / "pictures" / "tracker.gif", 5)

    def score(self, run: str, task: str, value: float, **changes: Any) -> None:
        primary, protocol, _ = SCORES.get(task, ("main", "tiny", ()))
        weights = self.models / run / "encoder.safetensors"
        document = {
            "method": run,
            "task": task,
            "protocol": protocol,
            "metrics": {primary: value, "a_second_figure": value * 0.8},
            "primary": primary,
            "higher_is_better": True,
            "encoder_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "0" * 64,
            "benchmark_hash": "b" * 32,
            "seed": 0,
            "params": {"k": [10, 20]},
            "data_variant": "val: 4 sequences, 9 objects, 96 frames of 256x192",
        }
        (self.metrics / f"{run}-{task}.json").write_text(json.dumps({**document, **changes}))

    def details(self, run: str, task: str, value: float) -> None:
        folder = self.results / f"{run}-{task}"
        (folder / "predictions").mkdir(parents=True)

        def near() -> float:
            return float(np.clip(value + self.rng.normal() * 0.15, 0, 1))

        if task == "vos":
            rows = [{"sequence": s, "object": o, "j_mean": near(), "f_mean": near()} for s in SEQUENCES for o in (1, 2)]
            for sequence in SEQUENCES[:2]:
                self._gif(folder / f"{sequence}.gif", 6)
        elif task == "knn":
            rows = [{"class": name, "n": 10, "top1_k10": near()} for name in CLASSES]
            self._png(folder / "neighbours.png")
        else:
            rows = [{"class": str(i), "iou": near() if i else None, "true_pixels": 50} for i in range(6)]
            self._png(folder / "segmentation.png")
        pq.write_table(pa.Table.from_pylist(rows), folder / "details.parquet")

    def _png(self, file: Path) -> None:
        small = self.rng.integers(0, 255, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((320, 192), Image.Resampling.BICUBIC).save(file)

    def _gif(self, file: Path, n: int) -> None:
        palette = self.rng.integers(0, 256, 16 * 3).tolist()
        frames = [Image.fromarray(f).resize((240, 120), Image.Resampling.NEAREST) for f in self._indices(n)]
        for frame in frames:  # indexed from the start: Pillow's search for a palette takes a second a frame
            frame.putpalette(palette)
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=150, loop=0)

    def _indices(self, n: int) -> list[np.ndarray]:
        return [self.rng.integers(0, 16, (30, 60), dtype=np.uint8) for _ in range(n)]

    @property
    def argv(self) -> list[str]:
        known = {"params": self.params, "metrics": self.metrics, "details": self.results, "models": self.models}
        return [part for name, path in {**known, "report": self.report}.items() for part in (f"--{name}", str(path))]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Finished(tmp_path_factory.mktemp("finished")).root


@pytest.fixture
def finished(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """A Finished pipeline; nothing is forwarded to MLflow."""
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Finished(tmp_path, fill=False)
