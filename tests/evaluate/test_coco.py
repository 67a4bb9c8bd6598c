"""The whole detection task: what it learns from, resumed to the bit, and on real pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.encoder import load_encoder
from components.common.errors import StageError
from components.common.progress import Progress
from components.evaluate import detection_train
from components.evaluate.coco_score import read_results, score
from components.evaluate.detection_data import (
    Augmentation,
    Example,
    augment,
    decode,
    flip,
    load,
    random_crop,
    resize,
    scaled_size,
    usable,
)
from components.evaluate.detection_train import number_of
from components.evaluate.layouts.coco import read_coco
from components.evaluate.task import Job
from components.evaluate.tasks import coco as task
from components.evaluate.tasks.coco import Args
from tests.evaluate import small
from tests.evaluate.coco_small import coco, write
from tests.evaluate.small import evaluate, real_data

SMALL = small.SMALL["coco"]


def test_polygons_and_codes_give_the_same_masks(tmp_path: Path) -> None:
    data = read_coco(coco(tmp_path, 3, 1), "train2017")
    for picture in data.pictures:
        for note in data.objects[picture.id]:
            x, y, w, h = note["bbox"]
            expected = np.zeros((picture.height, picture.width), np.uint8)
            expected[y : y + h, x : x + w] = 1
            np.testing.assert_array_equal(decode(note["segmentation"], picture.height, picture.width), expected)
    plain = {"size": [3, 2], "counts": [1, 2, 3]}  # column by column: one 0, two 1, three 0
    np.testing.assert_array_equal(decode(plain, 3, 2), [[0, 0], [1, 0], [1, 0]])


def test_what_is_learnt_from(tmp_path: Path) -> None:
    data = read_coco(coco(tmp_path, 3, 1), "train2017")
    (first, second, crowd) = data.objects[2]
    assert usable([first, second, crowd]) == [first, second]
    assert usable([{**first, "bbox": [1, 1, 0.5, 9]}, {**first, "segmentation": [[1, 2, 3, 4]]}]) == []
    found = load(data.pictures[2], [first, second], {3: 2, 1: 1})
    assert found.labels.tolist() == [2, 1] and found.masks.shape == (2, 44, 58)
    assert found.boxes[0].tolist() == [first["bbox"][0], first["bbox"][1], first["bbox"][0] + 18, first["bbox"][1] + 20]
    with pytest.raises(StageError, match="sizes disagree: the picture is 58x44, its annotations say 58x43"):
        load(replace(data.pictures[2], height=43), [first], {3: 2, 1: 1})


def boxed(example: Example) -> np.ndarray:
    """The tight boxes of the masks."""
    corners = []
    for mask in example.masks:
        ys, xs = np.nonzero(mask)
        corners.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return np.array(corners)


def example(rng: np.random.Generator) -> Example:
    masks = np.zeros((2, 60, 80), np.uint8)
    corners = []
    for mask in masks:
        (x0, x1), (y0, y1) = np.sort(rng.choice(80, 2, False)), np.sort(rng.choice(60, 2, False))
        mask[y0:y1, x0:x1] = 1
        corners.append([x0, y0, x1, y1])
    image = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    return Example(image, np.array(corners, np.float32), np.array([1, 2]), masks)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_boxes_follow_their_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = example(rng)
    np.testing.assert_array_equal(flip(first).boxes, boxed(flip(first)))
    np.testing.assert_array_equal(flip(flip(first)).image, first.image)
    cut = random_crop(first, (24, 40), rng)
    assert all(24 <= side <= 40 for side in cut.image.shape[:2]) and cut.masks.shape[1:] == cut.image.shape[:2]
    np.testing.assert_array_equal(cut.boxes, boxed(cut) if len(cut.boxes) else np.zeros((0, 4)))
    large = resize(first, 90, 1000)
    assert large.image.shape == (90, 120, 3)
    np.testing.assert_allclose(large.boxes, boxed(large), atol=1)


def test_augmentation_is_drawn_as_asked() -> None:
    how = Augmentation(0.5, (30, 36), 50, 0.5, (40,), (20, 30))
    first = example(np.random.default_rng(0))
    found = [augment(first, how, np.random.default_rng(k)) for k in range(60)]
    again = augment(first, how, np.random.default_rng(7))
    np.testing.assert_array_equal(again.image, found[7].image)
    whole = {e.image.shape[:2] for e in found if abs(e.image.shape[1] / e.image.shape[0] - 4 / 3) < 0.02}
    assert whole >= {(30, 40), (36, 48)} and len({e.image.shape[:2] for e in found}) > 5
    assert all(max(e.image.shape) <= 50 for e in found)
    assert scaled_size(480, 640, 800, 1333) == (800, 1067) and scaled_size(200, 640, 800, 1333) == (417, 1333)


def test_every_picture_once_an_epoch() -> None:
    n, batch = 7, 3
    for epoch in range(3):
        flat = [number_of(3 * epoch + k, slot, n, batch, 0) for k in range(3) for slot in range(batch)]
        assert sorted(flat[:n]) == list(range(n)) and flat[n:] == flat[:2]
    first, second = ([number_of(i, slot, n, batch, 0) for slot in range(batch)] for i in (0, 3))
    assert first != second


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def test_the_task_resumes_to_the_bit(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = coco(tmp_path / "b", 7, 3)
    torch.manual_seed(5)  # must not matter
    assert evaluate(tmp_path, "coco", model, root, out="whole") == 0
    real, calls = detection_train.step, []

    def stop_later(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(detection_train, "step", stop_later)
    torch.manual_seed(6)
    assert evaluate(tmp_path, "coco", model, root) == 130
    calls.clear()
    monkeypatch.setattr(detection_train, "step", lambda *args: (calls.append(1), real(*args))[1])
    assert evaluate(tmp_path, "coco", model, root) == 0
    assert len(calls) == 3  # of six iterations
    assert result(tmp_path) == result(tmp_path, "whole")
    for name in ("results.json", "details.parquet", "training.parquet", "detections.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    document = result(tmp_path)
    assert document["protocol"] == "mini single, short side 44, 2 epochs of 3"
    assert "7 train, 3 val pictures, 7 val objects, 2 classes" in document["data_variant"]
    truth = read_coco(root, "val2017")
    assert score(truth, read_results(tmp_path / "out/results.json", truth))[0] == document["metrics"]
    assert document["metrics"]["box_ap"] >= 0 and document["notes"][0].endswith("multiples of 32 pixels")
    rows = pq.read_table(tmp_path / "out/training.parquet").to_pylist()
    assert [row["iteration"] for row in rows] == list(range(6)) and rows[-1]["loss"] < rows[0]["loss"]
    with Image.open(tmp_path / "out/detections.png") as picture:
        assert picture.width > 600


def test_no_draw_is_global(model: Path, tmp_path: Path) -> None:
    data = read_coco(coco(tmp_path / "b", 3, 1), "train2017")
    encoder, args = load_encoder(str(model)), task.Args.model_validate(SMALL)
    job = Job("x", tmp_path, tmp_path, "cpu", print, lambda total, unit: Progress(total, unit))
    before = torch.random.get_rng_state()
    detector = task.make_detector(encoder, 2, args, job)
    task.fit(detector, data, {1: 1, 2: 3}, encoder, args, job)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_learns(model: Path, tmp_path: Path) -> None:
    """Two colours on a plain ground, cascade heads on the last block's pyramid."""
    root = coco(tmp_path / "b", 12, 3)
    more = {"heads": "cascade", "pyramid": "last", "epochs": 14, "drop_epochs": [12], "lr": 5e-3, "layer_decay": 1.0,
            "images_per_pass": None, "crop_share": 0.0, "drop_path": 0.0, "checkpoint_every_s": 100}  # fmt: skip
    assert evaluate(tmp_path, "coco", model, root, score_threshold=0.05, **more) == 0
    figures = result(tmp_path)["metrics"]
    assert figures["box_ap50"] > 0.3 and figures["mask_ap50"] > 0.2


def test_a_loss_that_is_no_number_stops(model: Path, tmp_path: Path, capsys: Any) -> None:
    assert evaluate(tmp_path, "coco", model, coco(tmp_path / "b", 4, 1), lr=1e30, epochs=4) == 3
    assert "the loss is no number at iteration" in capsys.readouterr().err


def test_unusable_benchmarks(model: Path, tmp_path: Path, capsys: Any) -> None:
    root = coco(tmp_path / "b", 2, 1)
    file = root / "annotations/instances_train2017.json"
    document = json.loads(file.read_text())
    write(root, "train2017", {**document, "categories": [{"id": 3, "name": "red"}, {"id": 1, "name": "green"}]})
    assert evaluate(tmp_path, "coco", model, root) == 2
    assert "have different categories" in capsys.readouterr().err
    crowds = [{**note, "iscrowd": 1} for note in document["annotations"]]
    write(root, "train2017", {**document, "annotations": crowds})
    assert evaluate(tmp_path, "coco", model, root) == 2
    assert "no annotation of train2017 can be learnt from" in capsys.readouterr().err


def test_protocols() -> None:
    published = Args.model_validate({})
    assert (published.heads, published.batch_size, published.epochs, published.short_px[-1]) == ("cascade", 32, 12, 800)
    mini = Args.model_validate({"protocol": "mini", "epochs": 5})
    assert (mini.heads, mini.epochs, mini.test_short_px) == ("single", 5, 400)
    assert set(Args.published["1x"]) == set(Args.published["mini"])
    with pytest.raises(ValueError, match="one entry per stage"):
        Args.model_validate({"stage_iou": [0.5]})
    with pytest.raises(ValueError, match="four blocks"):
        Args.model_validate({"tap_blocks": [1, 2]})


def test_real_pictures(model: Path, tmp_path: Path) -> None:
    """Real annotations: an id of 0 for a picture and a category, crowds drawn as polygons."""
    source, root = real_data("coco_cc0_mini"), tmp_path / "b"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copy(source / "instances.json", root / "annotations" / f"instances_{split}.json")
        (root / split).symlink_to((source / "images").resolve())
    data = read_coco(root, "val2017")
    assert (len(data.pictures), data.n_objects, len(data.names)) == (36, 57, 17)
    assert sum(bool(note["iscrowd"]) for notes in data.objects.values() for note in notes) == 4
    more = {"epochs": 1, "drop_epochs": [], "batch_size": 12, "images_per_pass": 4}
    assert evaluate(tmp_path, "coco", model, root, **more) == 0
    found = result(tmp_path)
    assert set(found["metrics"]) >= {"box_ap", "mask_ap"} and 0 <= found["metrics"]["box_ap"] <= 1
    results = read_results(tmp_path / "out/results.json", data)
    assert len(results) == 36 * 5 and all(r["segmentation"]["size"][0] > 400 for r in results)
