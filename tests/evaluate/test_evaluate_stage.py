"""The whole stage: every task, resumed and repeated to the byte, on external weights and on real data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.common.scores import read_cells
from components.evaluate import segmentation_score
from components.evaluate.class_score import score_predictions
from components.evaluate.davis_score import score_folders
from components.evaluate.tasks import vos
from tests.evaluate.coco_small import coco
from tests.evaluate.small import davis, evaluate, imagenet, real_data, voc
from tests.evaluate.small_boxes import voc_boxes
from tests.evaluate.small_videos import got10k, jhmdb, vip

BENCHMARKS: dict[str, Callable[[Path], Path]] = {
    "knn": imagenet,
    "vos": davis,
    "voc_linear": voc,
    "pose": jhmdb,
    "parts": vip,
    "tracking": got10k,
    "coco": coco,
    "discovery": voc_boxes,
}


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return BENCHMARKS[request.param](tmp_path / "benchmark")


each_task = pytest.mark.parametrize(("task", "benchmark"), [(t, t) for t in BENCHMARKS], indirect=["benchmark"])


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@each_task
def test_a_second_run_gives_the_same_bytes(task: str, benchmark: Path, model: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, task, model, benchmark) == 0
    shutil.rmtree(tmp_path / "cache")
    assert evaluate(tmp_path, task, model, benchmark, out="again") == 0
    assert result(tmp_path) == result(tmp_path, "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    assert not any(str(tmp_path) in text for text in map(str, contents(tmp_path / "out").values()))


@each_task
def test_what_compare_reads(task: str, benchmark: Path, model: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, task, model, benchmark) == 0
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics" / f"untrained-{task}.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None, cell.reason
    assert 0 <= cell.score.value <= 1
    assert set(cell.score.params).isdisjoint({"device", "workers", "batch_images", "pictures"})
    assert pq.read_table(tmp_path / "out/details.parquet").num_rows > 0


@each_task
def test_goes_on_after_a_kill(
    task: str, benchmark: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its middle, the task keeps what it has computed and ends with the bytes of an undisturbed run."""
    assert evaluate(tmp_path, task, model, benchmark, out="whole") == 0
    shutil.rmtree(tmp_path / "cache")  # the features it shares
    forward, calls = torch.nn.Module.__call__, []

    def stop_later(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(self).__name__ == "PatchEmbed":
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", stop_later)
        assert evaluate(tmp_path, task, model, benchmark) == 130
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "out").exists()
    kept = len(contents(tmp_path / "cache/evaluate"))
    assert kept > 1  # more than the run's name
    assert evaluate(tmp_path, task, model, benchmark) == 0
    assert result(tmp_path) == result(tmp_path, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_knn_tells_colours_apart_and_its_predictions_score_the_same(model: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, "knn", model, imagenet(tmp_path / "b")) == 0
    found = result(tmp_path)
    assert found["primary"] == "top1_k5" and set(found["metrics"]) >= {"top1_k1", "top5_k1", "top1_k24"}
    assert found["metrics"]["top1_k1"] > 0.5  # 1/6 by chance
    again = score_predictions(tmp_path / "out/predictions.csv")["metrics"]
    assert again == {"top1": found["metrics"]["top1_k5"], "top5": found["metrics"]["top5_k5"]}
    with Image.open(tmp_path / "out/neighbours.png") as picture:
        assert picture.width > 400 and picture.height > 400
    assert any("k limited to the 24" in note for note in found["notes"])
    assert evaluate(tmp_path, "knn", model, tmp_path / "b", out="patches", feature="mean_patches") == 0
    patches = result(tmp_path, "patches")
    assert patches["protocol"] == f"{found['protocol']}, mean patches"


def test_vos_predictions_are_in_davis_layout_and_score_the_same(model: Path, tmp_path: Path) -> None:
    root = davis(tmp_path / "b")
    assert evaluate(tmp_path, "vos", model, root) == 0
    found = result(tmp_path)
    again = score_folders(root / "Annotations/480p", tmp_path / "out/predictions", ["a", "b"])
    assert found["metrics"] == again.summary()
    assert found["notes"] == ["frames of 52x36 enter at 40x32, a grid of 5x4 cells"]
    mask = Image.open(tmp_path / "out/predictions/a/00002.png")
    palette = mask.getpalette()
    assert mask.mode == "P" and mask.size == (52, 36) and palette is not None and palette[3:6] == [128, 0, 0]
    with Image.open(tmp_path / "out/a.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5
    frames = pq.read_table(tmp_path / "out/frames.parquet")
    assert frames.num_rows == 2 * 2 * 3 and frames.column_names == ["sequence", "object", "frame", "j", "f"]
    document = vos.scores_document(again)
    assert set(document) == {"metrics", "objects", "frames"}


def test_voc_linear_learns_and_its_predictions_score_the_same(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, "voc_linear", model, root, epochs=60) == 0
    found = result(tmp_path)["metrics"]
    assert found["miou"] > 0.4  # ground alone gives 0.2
    again = segmentation_score.score_folders(root / "SegmentationClass", tmp_path / "out/predictions", 4)
    assert again["metrics"] == {"miou": found["miou_native"], "pixel_accuracy": found["pixel_accuracy_native"]}
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert evaluate(tmp_path, "voc_linear", model, root, out="counted", epochs=60, num_classes=None) == 0
    assert result(tmp_path, "counted")["metrics"] == found


def test_external_weights(model: Path, tmp_path: Path) -> None:
    """A timm name, and a bare safetensors file of a timm model."""
    root = imagenet(tmp_path / "b", n_classes=2, n_train=2, n_val=1)
    name = "timm:vit_tiny_patch16_224"
    assert evaluate(tmp_path, "knn", name, root, batch_images=4) == 0
    assert "untrained" in result(tmp_path)["encoder_origin"]
    assert evaluate(tmp_path, "knn", model / "encoder.safetensors", root, out="file") == 0
    assert evaluate(tmp_path, "knn", model, root, out="folder") == 0
    file, folder = result(tmp_path, "file"), result(tmp_path, "folder")
    assert file["metrics"] == folder["metrics"] and file["encoder_sha256"] == folder["encoder_sha256"]
    assert result(tmp_path)["encoder_sha256"] != file["encoder_sha256"]


@pytest.mark.parametrize("protocol", ["dino", "cropmae", "crw"])
def test_all_protocols_run(protocol: str, model: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if protocol == "dino" else {"input_px": [32, 48] if protocol == "cropmae" else None}
    assert evaluate(tmp_path, "vos", model, davis(tmp_path / "b"), protocol=protocol, **changes) == 0
    assert result(tmp_path)["protocol"].startswith(f"{protocol} propagation")


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("knn", {"crop_pix": 32}, "unknown key 'crop_pix', did you mean 'crop_px'?"),
        ("knn", {"temperature": 0}, "'temperature' = 0"),
        ("vos", {"protocol": "dyno"}, "'protocol' = 'dyno'"),
        ("vos", {"top_k": 0}, "'top_k' = 0"),
        ("knn", {"crop_px": 30, "fit": "exact"}, "no whole number of 8-pixel patches"),
        ("vos", {"image_set": "2016/val"}, "no such list"),
        ("voc_linear", {"num_classes": 2}, "label 2 in a benchmark of 2 classes"),
    ],
)
def test_bad_parameters(
    task: str, params: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, task, model, BENCHMARKS[task](tmp_path / "b"), **params) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.json").exists()


def test_bad_benchmarks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = davis(tmp_path / "b")
    (root / "Annotations/480p/b/00004.png").unlink()
    assert evaluate(tmp_path, "vos", model, root) == 2
    assert "masks and frames disagree: sequence b has 5 frames and 4 masks" in capsys.readouterr().err
    assert evaluate(tmp_path, "vos", "nothing-here", root) == 2
    assert "no encoder there" in capsys.readouterr().err
    root = imagenet(tmp_path / "c", n_classes=2)
    (root / "train/class1/2.png").write_bytes(b"")
    assert evaluate(tmp_path, "knn", model, root) == 2
    error = capsys.readouterr().err
    assert "picture not readable" in error and "class1/2.png" in error


def test_unknown_task(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from components.common.stage import main
    from components.evaluate.__main__ import STAGE, run

    (tmp_path / "params.yaml").write_text("evaluate: {knm: {}}")
    argv = ["--params", tmp_path / "params.yaml", "--method", "m", "--task", "knm", "--model", model]
    argv += ["--benchmark", tmp_path, "--metrics", tmp_path / "m.json", "--details", tmp_path / "d"]
    assert main(STAGE, run, [str(word) for word in argv]) == 2
    assert "no task 'knm', did you mean 'knn'?" in capsys.readouterr().err


def test_real_video_benchmark_with_sparse_masks(model: Path, tmp_path: Path) -> None:
    """PUMaVOS at a small size: frames without a mask are propagated through and not scored."""
    root = real_data("pumavos")
    changes: dict[str, Any] = {
        "image_set": "2017/sparse",
        "sparse": True,
        "input_px": 64,
        "batch_images": 16,
        "pictures": 1,
    }
    assert evaluate(tmp_path, "vos", model, root, **changes) == 0
    found = result(tmp_path)
    assert found["data_variant"].startswith("2017/sparse: 1 sequences, 1 objects, 87 frames")
    assert len(list((tmp_path / "out/predictions/caps").iterdir())) == 87
    frames = pq.read_table(tmp_path / "out/frames.parquet").column("frame").to_pylist()
    assert frames == ["frame_000014", "frame_000033", "frame_000043"]


def test_real_pictures(model: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, "knn", model, real_data("clothing10_cc0"), batch_images=32) == 0
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["n"] for row in rows] == [4] * 10
    assert np.mean([row["top1_k5"] for row in rows]) == pytest.approx(result(tmp_path)["metrics"]["top1_k5"])
