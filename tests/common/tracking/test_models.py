"""Encoders as LoggedModels: loadable from code, without a pickle and without Longtake."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from components.common.errors import StageError
from components.common.tracking import models

ARGS = {"patch_size": 8, "img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a real timm encoder."""
    folder = tmp_path_factory.mktemp("models") / "dino"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm.create_model("vit_tiny_patch16_224", **ARGS)
    save_file(encoder.state_dict(), folder / "encoder.safetensors")
    data = {"mean": MEAN, "std": STD, "input_size": [3, 32, 32], "interpolation": "bicubic"}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": ARGS, "num_features": 16, "pretrained_cfg": data}
    (folder / "config.json").write_text(json.dumps({**config, "longtake": {"method": "dino", "index": "abc"}}))
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "model"
    models.save_pyfunc(folder, place)
    return place


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tokens(folder: Path, images: np.ndarray) -> np.ndarray:
    """Tokens (N, 1 + 16, D) by timm alone."""
    encoder = timm.create_model("vit_tiny_patch16_224", **ARGS).eval()
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    with torch.no_grad():
        return encoder.forward_features(x).numpy()


def test_every_kind_of_input_gives_timms_own_features(
    saved: Path, images: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(saved))
    encoded = [_png(image) for image in images]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, data in zip(paths, encoded, strict=True):
        path.write_bytes(data)
    text = [base64.b64encode(data).decode() for data in encoded]
    kinds = [images, images / 255, (images / 255).astype(np.float32), encoded, paths, text, images.tolist()]
    kinds += [["data:image/png;base64," + t for t in text], pd.DataFrame({"image": encoded})]
    for given in kinds:
        features = model.predict(given)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, tokens[:, 0], atol=2e-5)
    small = model.predict(images, params={"batch_size": 2})
    np.testing.assert_allclose(small, tokens[:, 0], atol=2e-5)
    patches = model.predict(images, params={"features": "patches"})
    np.testing.assert_allclose(patches, tokens[:, 1:].reshape(3, 4, 4, 16), atol=2e-5)


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def test_other_sizes_are_resized_and_cropped_as_pillow_would(saved: Path) -> None:
    import mlflow

    wide = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    wide = np.array(Image.fromarray(wide).resize((80, 48)).resize((40, 24)).resize((80, 48)))  # smooth
    resized = np.array(Image.fromarray(wide).resize((53, 32), Image.Resampling.BICUBIC))[:, 10:42]
    model = mlflow.pyfunc.load_model(str(saved))
    np.testing.assert_allclose(model.predict([wide]), model.predict([resized]), atol=0.02)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 32, 32), np.uint8), "images must have shape"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"shape \(H, W, 3\)"),
        ([], "no images given"),
        (b"png", "pass a list of images"),
        (["/etc/hostname"], None),  # text is never a path
    ],
)
def test_wrong_input_is_refused(saved: Path, given: object, said: str | None) -> None:
    import mlflow

    with pytest.raises(ValueError, match=said):
        mlflow.pyfunc.load_model(str(saved)).predict(given)


@pytest.mark.slow  # a fresh interpreter imports MLflow and torch
def test_loads_without_longtake_and_without_pickles(saved: Path, tmp_path: Path) -> None:
    """In a folder and an interpreter where `components` cannot be imported; no file of the model is a pickle."""
    shutil.copytree(saved, tmp_path / "model")
    code = (
        "import importlib.util, numpy, mlflow; assert importlib.util.find_spec('components') is None\n"
        "model = mlflow.pyfunc.load_model('model')\n"
        "print(model.predict(numpy.zeros((1, 32, 32, 3), 'uint8')).shape)"
    )
    env = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 16)", done.stderr
    assert "UserWarning" not in done.stderr
    assert not [file for file in saved.rglob("*") if file.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]


def test_the_model_folder_lies_in_the_artifacts_as_it_is(saved: Path, folder: Path) -> None:
    for file in folder.iterdir():
        assert (saved / "artifacts" / "encoder" / file.name).read_bytes() == file.read_bytes()
        assert not (saved / "artifacts" / "encoder" / file.name).is_symlink()


def test_requirements_are_pinned_and_hold_no_address(saved: Path) -> None:
    lines = (saved / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == list(models.NEEDS)
    assert all("/" not in line and "+" not in line and "==" in line for line in lines)


def test_logged_once_with_its_facts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    tags = {"method": "dino", "git_revision": "abc123"}
    first, second = (client.create_run(experiment, tags=tags).info.run_id for _ in range(2))
    monkeypatch.setattr(models, "_upload", _killed)
    with pytest.raises(KeyboardInterrupt):
        models.log_encoder_model(uri, first, folder, "dino")
    monkeypatch.undo()
    model_id = models.log_encoder_model(uri, first, folder, "dino")  # completes what the kill left
    assert models.log_encoder_model(uri, second, folder, "dino") == model_id
    assert [model.model_id for model in client.search_logged_models([experiment])] == [model_id]
    model = client.get_logged_model(model_id)
    sha256 = hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()
    assert str(model.status) == "READY"
    assert model.tags == {"encoder_sha256": sha256, "method": "dino", "git_revision": "abc123"}
    assert model.params["architecture"] == "vit_tiny_patch16_224" and model.params["longtake.index"] == "abc"
    for run in (first, second):
        assert [output.model_id for output in client.get_run(run).outputs.model_outputs] == [model_id]


def _killed(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_that_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no config\.json in the model folder"):
        models.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "x"}')
    with pytest.raises(StageError, match="missing model_args, pretrained_cfg"):
        models.read_config(tmp_path)
