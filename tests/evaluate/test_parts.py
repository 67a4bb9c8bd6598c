"""Parts: mIoU against a loop over pixels, the layout's errors, the task and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.common.errors import StageError
from components.evaluate.layouts.vip import CLASSES, read_vip
from components.evaluate.parts_score import score_parts
from components.evaluate.tasks import parts
from tests.evaluate.small import evaluate
from tests.evaluate.small_videos import vip, write_grey


def literal_miou(truth: list[np.ndarray], predicted: list[np.ndarray]) -> float:
    """Sets of pixels, class by class, over all frames of all videos."""
    ious = []
    for c in range(20):
        both = either = 0
        for t, p in zip(truth, predicted, strict=True):
            for y, x in np.ndindex(t.shape):
                if t[y, x] > 19:
                    continue
                a, b = t[y, x] == c, p[y, x] == c
                both, either = both + (a and b), either + (a or b)
        if either:
            ious.append(both / either)
    return float(np.mean(ious))


def write_folders(root: Path, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    truth = [rng.choice([0, 4, 13, 19, 20, 255], (9, 11)).astype(np.uint8) for _ in range(5)]
    predicted = [np.where(rng.random(t.shape) < 0.6, np.minimum(t, 19), rng.integers(0, 20, t.shape)) for t in truth]
    for k, (t, p) in enumerate(zip(truth, predicted, strict=True)):
        video = f"videos{k % 2}"
        write_grey(root / "gt" / video / f"{k:012d}.png", t)
        write_grey(root / "pred" / video / f"{k:012d}_mask.png", p)
    return truth, predicted


@pytest.mark.parametrize("seed", range(3))
def test_miou_equals_the_loop(seed: int, tmp_path: Path) -> None:
    truth, predicted = write_folders(tmp_path, seed)
    found = score_parts(tmp_path / "gt", tmp_path / "pred", ["videos0", "videos1"])
    assert found["metrics"]["miou"] == pytest.approx(literal_miou(truth, predicted), abs=1e-12)
    assert [row["class"] for row in found["classes"]] == CLASSES
    later = score_parts(tmp_path / "gt", tmp_path / "pred", ["videos0", "videos1"], first_frame=False)
    assert later["metrics"]["miou"] == pytest.approx(literal_miou(truth[2:], predicted[2:]), abs=1e-12)


def test_a_prediction_of_another_size_is_resized_nearest(tmp_path: Path) -> None:
    truth, predicted = write_folders(tmp_path, 0)
    file = tmp_path / "pred/videos0/000000000000_mask.png"
    Image.open(file).resize((22, 18), Image.Resampling.NEAREST).save(file)
    found = score_parts(tmp_path / "gt", tmp_path / "pred", ["videos0", "videos1"])
    assert found["metrics"]["miou"] == pytest.approx(literal_miou(truth, predicted), abs=1e-12)


def test_perfect_and_bad_predictions(tmp_path: Path) -> None:
    root = vip(tmp_path)
    labels = root / "Annotations/Category_ids"
    found = score_parts(labels, labels, ["videos1"])
    assert found["metrics"] == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert [row["class"] for row in found["classes"] if row["iou"] is not None] == [
        "background",
        "upper-clothes",
        "face",
    ]
    shutil.copytree(labels, tmp_path / "pred")
    write_grey(tmp_path / "pred/videos1/000000000002.png", np.full((36, 52), 20))
    with pytest.raises(StageError, match=r"label 20 in a benchmark of 20 classes \(0..19\): .*000000000002"):
        score_parts(labels, tmp_path / "pred", ["videos1"])
    (tmp_path / "pred/videos1/000000000002.png").unlink()
    with pytest.raises(StageError, match="a predicted label map is missing"):
        score_parts(labels, tmp_path / "pred", ["videos1"])
    with pytest.raises(StageError, match="no label maps of video videos9"):
        score_parts(labels, tmp_path / "pred", ["videos9"])


def test_layout(tmp_path: Path) -> None:
    root = vip(tmp_path)
    assert [(v.name, len(v.frames), len(v.masks)) for v in read_vip(root)] == [("videos1", 4, 4), ("videos7", 4, 4)]
    (root / "Annotations/Category_ids").rename(root / "Category_ids")  # as in the official archive
    assert len(read_vip(root)) == 2
    with pytest.raises(StageError, match=r"no such list: .*test_videos.txt \(there are: val_videos\)"):
        read_vip(root, "test_videos")
    (root / "Category_ids/videos1/000000000003.png").unlink()
    with pytest.raises(StageError, match="masks and frames disagree: sequence videos1 has 4 frames and 3 masks"):
        read_vip(root)
    shutil.rmtree(root / "Images")
    with pytest.raises(StageError, match="not in VIP layout, no Images folder"):
        read_vip(root)
    shutil.rmtree(root / "Category_ids")
    with pytest.raises(StageError, match="not in VIP layout, no Annotations/Category_ids folder"):
        read_vip(root)


def test_published_constants() -> None:
    cropmae, crw = (parts.Args.model_validate({"protocol": name}) for name in ("cropmae", "crw"))
    assert parts.Args.model_validate({}) == cropmae
    assert (cropmae.input_px, cropmae.input_side, cropmae.long_side_multiple_px, cropmae.top_k) == (880, "long", 64, 10)
    assert (cropmae.context_frames, cropmae.radius_cells, cropmae.temperature) == (20, 20, 0.7)
    assert (crw.input_px, crw.context_frames, crw.radius_cells, crw.top_k, crw.temperature) == (
        (560, 560),
        4,
        12,
        10,
        0.05,
    )


def test_task_and_command_agree(model: Path, tmp_path: Path) -> None:
    root = vip(tmp_path / "b")
    assert evaluate(tmp_path, "parts", model, root) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["primary"] == "miou" and found["data_variant"] == "val_videos: 2 videos, 8 annotated frames"
    assert found["notes"] == ["frames of 52x36 enter at 48x32, a grid of 6x4 cells"]
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert len(rows) == 20 and pq.read_table(tmp_path / "out/videos.parquet").num_rows == 2
    mask = np.array(Image.open(tmp_path / "out/predictions/videos1/000000000002.png"))
    assert mask.shape == (36, 52) and set(np.unique(mask)) <= {0, 4, 13}
    with Image.open(tmp_path / "out/videos1.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 4
    argv = ["score", "--gt", root, "--pred", tmp_path / "out/predictions", "--json", tmp_path / "s.json"]
    assert parts.score_main("parts", "", parts._arguments, parts._score, [str(word) for word in argv]) == 0
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["metrics"] == found["metrics"] and again["classes"] == rows


def test_a_label_that_is_no_class(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = vip(tmp_path / "b")
    write_grey(root / "Annotations/Category_ids/videos1/000000000001.png", np.full((36, 52), 77))
    assert evaluate(tmp_path, "parts", model, root) == 2
    assert "label 77 in a benchmark of 20 classes" in capsys.readouterr().err
