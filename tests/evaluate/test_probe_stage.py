"""The tasks that train, as whole stages: killed and repeated to the byte, scored again from their files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.common.config import parse, read_yaml, section_of
from components.common.scores import read_cells
from components.download.world.config import WorldParams
from components.evaluate import scene_score, segmentation_score
from components.evaluate.class_score import score_predictions
from components.evaluate.task import get_task
from tests.evaluate.small import ade20k, evaluate, imagenet, real_data, voc

BENCHMARKS: dict[str, Callable[[Path], Path]] = {
    "linear": imagenet, "voc_fcn": voc, "voc_linear": voc, "ade_linear": ade20k, "ade_upernet": ade20k,
}  # fmt: skip
PICTURES = {"linear": "linear", "voc_fcn": "segmentation", "ade_linear": "scenes", "ade_upernet": "training"}


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def score_again(task: str, root: Path, details: Path) -> dict[str, float]:
    """The figures taken from the written predictions alone."""
    if task == "linear":
        found = {n: score_predictions(details / f"predictions_{n}.csv")["metrics"] for n in ("last", "best")}
        return {f"{figure}_{name}": value for name, figures in found.items() for figure, value in figures.items()}
    if task.startswith("voc"):
        found = segmentation_score.score_folders(root / "SegmentationClass", details / "predictions", 4)["metrics"]
        return {f"{figure}_native": value for figure, value in found.items()}
    return scene_score.score_folders(root / "annotations/validation", details / "predictions", 6)["metrics"]


@pytest.mark.parametrize(
    ("task", "at", "changes"),
    [
        ("linear", 13, {}),
        ("voc_fcn", 7, {}),
        ("voc_linear", 7, {"protocol": "leopart", "epochs": 3}),
        ("ade_linear", 4, {}),
        ("ade_upernet", 4, {}),
    ],
)
def test_killed_and_restarted_it_ends_with_the_same_bytes(
    task: str, at: int, changes: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = BENCHMARKS[task](tmp_path / "benchmark")
    assert evaluate(tmp_path, task, model, root, out="whole", **changes) == 0
    shutil.rmtree(tmp_path / "cache")  # shared features would leave the next run no pass to be stopped in
    forward, calls = torch.nn.Module.__call__, []

    def stop_later(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(self).__name__ == "PatchEmbed":
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", stop_later)
        assert evaluate(tmp_path, task, model, root, **changes) == 130
    assert not (tmp_path / "out").exists()
    assert any(name.endswith(".safetensors") for name in contents(tmp_path / "cache/evaluate"))
    assert evaluate(tmp_path, task, model, root, **changes) == 0
    assert result(tmp_path) == result(tmp_path, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    found = result(tmp_path)
    again = score_again(task, root, tmp_path / "out")
    assert again and {name: found["metrics"][name] for name in again} == again
    assert pq.read_table(tmp_path / "out/details.parquet").num_rows > 0
    if task.startswith("ade"):
        with Image.open(tmp_path / "out/scenes.png") as sheet:
            assert (128, 0, 0) in {colour for _, colour in sheet.getcolors(1 << 20)}  # the legend's square of class 1
    with Image.open(tmp_path / f"out/{PICTURES.get(task, 'segmentation')}.png") as picture:
        assert picture.width > 100
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics" / f"untrained-{task}.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None and 0 <= cell.score.value <= 1


def test_linear_learns_and_the_test_pictures_choose_nothing(model: Path, tmp_path: Path) -> None:
    root = imagenet(tmp_path / "b", n_train=6)
    changes = {"epochs": 12, "train_views": "cached", "held_out_share": 0.3}
    assert evaluate(tmp_path, "linear", model, root, **changes) == 0
    found = result(tmp_path)
    assert found["metrics"]["top1_best"] > 0.5  # 1/6 by chance
    assert set(found["metrics"]) == {f"top{k}_{which}" for k in (1, 5) for which in ("best", "last")}
    sweep = pq.read_table(tmp_path / "out/sweep.parquet").to_pylist()
    assert [row["lr"] for row in sweep] == [0.1, 10.0]
    for i in range(2):  # other test pictures: another figure by the same choice
        shutil.copy(root / "val/class1/0.png", root / f"val/class0/{i}.png")
    assert evaluate(tmp_path, "linear", model, root, out="other", **changes) == 0
    assert pq.read_table(tmp_path / "other/sweep.parquet").to_pylist() == sweep
    assert result(tmp_path, "other")["notes"] == found["notes"]
    assert result(tmp_path, "other")["metrics"] != found["metrics"]


def test_ade_linear_learns_and_says_what_chose(model: Path, tmp_path: Path) -> None:
    root = ade20k(tmp_path / "b")
    changes = {"iterations": 30, "batch_size": 4, "lr": [1e-6, 5e-2], "crop_px": 35, "ratio": [0.9, 1.2]}
    assert evaluate(tmp_path, "ade_linear", model, root, **changes) == 0
    found = result(tmp_path)
    assert found["metrics"]["miou"] > 0.3 and set(found["metrics"]) == {"miou", "macc", "aacc"}
    assert found["notes"] == [
        "pictures enter at 32x32 instead of 35x35: whole 8-pixel patches",
        "lr 0.05 chosen by mIoU on 2 held-out training pictures",
    ]
    sweep = pq.read_table(tmp_path / "out/sweep.parquet").to_pylist()
    assert sweep[1]["held_out_miou"] > sweep[0]["held_out_miou"]
    losses = pq.read_table(tmp_path / "out/training.parquet").column("loss").to_pylist()
    assert losses[-1] < losses[0]
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["class"] for row in rows] == ["wall", "2", "3", "4", "tree", "6"] and rows[5]["iou"] is None
    prediction = Image.open(tmp_path / "out/predictions/ADE_val_00000001.png")
    assert prediction.size == (56, 40)


def test_real_scenes_of_any_size(model: Path, tmp_path: Path) -> None:
    """Three real pictures, learnt and tested: 150 classes, named by the release's table."""
    root = real_data("ade20k_mini")
    changes: dict[str, Any] = {"num_classes": 150, "train_set": "validation", "iterations": 2, "lr": [1e-3]}
    assert evaluate(tmp_path, "ade_linear", model, root, protocol="ibot", **changes) == 0
    found = result(tmp_path)
    assert found["protocol"] == "ibot linear, crops 32, 2 iterations of 2" and 0 <= found["metrics"]["miou"] <= 1
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["class"] for row in rows[:3]] == ["wall", "building", "sky"] and len(rows) == 150
    for file in (root / "annotations").glob("*.png"):
        assert Image.open(tmp_path / "out/predictions" / file.name).size == Image.open(file).size


def test_score_commands_need_no_torch() -> None:
    names = ", ".join(f"components.evaluate.tasks.{task}" for task in BENCHMARKS)
    code = f"import sys, {names}; print(sorted({{'torch', 'timm', 'mlflow', 'dvc'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", ["voc_linear", "linear"])
def test_a_side_of_no_whole_patches_is_rounded_and_said(task: str, model: Path, tmp_path: Path) -> None:
    changes = {"input_px": 30} if task == "voc_linear" else {"crop_px": 30, "resize_px": 31}
    assert evaluate(tmp_path, task, model, BENCHMARKS[task](tmp_path / "b"), **changes) == 0
    assert "pictures enter at 24x24 instead of 30x30: whole 8-pixel patches" in result(tmp_path)["notes"]


@pytest.mark.parametrize("file", ["params.yaml", "recipes/published/evaluate.yaml"])
def test_profiles_are_valid_and_have_a_benchmark(file: str) -> None:
    folder = Path(__file__).parents[2]
    document, own = read_yaml(folder / file), read_yaml(folder / "params.yaml")
    for task in BENCHMARKS:
        args = parse(get_task(task).Args, section_of(document, "evaluate", task), file)
        assert args.seed == 0
        world = parse(WorldParams, section_of(own, "download", task), file)
        assert world.train_clips and world.val_clips


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("voc_linear", {"protocol": "leopard"}, "'protocol' = 'leopard'"),
        ("ade_linear", {"protocol": "beit"}, "'protocol' = 'beit'"),
        ("ade_upernet", {"num_classes": 4}, "label 5 in a benchmark of 4 classes (1..4)"),
        ("ade_upernet", {"val_set": "testing"}, "no pictures of the split 'testing'"),
        ("linear", {"last_blocks": 0}, "'last_blocks' = 0"),
        ("ade_upernet", {"drop_pth": 0.2}, "unknown key 'drop_pth', did you mean 'drop_path'?"),
    ],
)
def test_bad_parameters(
    task: str, params: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, task, model, BENCHMARKS[task](tmp_path / "b"), **params) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.json").exists()
