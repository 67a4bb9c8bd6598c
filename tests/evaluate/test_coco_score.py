"""AP against a rendition of loops, and what the readers say of broken files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.common.errors import StageError
from components.evaluate.coco_score import FIGURES, KINDS, read_results, score
from components.evaluate.layouts.coco import Coco, fits, read_coco, read_instances, run_lengths
from components.evaluate.score_cli import score_main
from components.evaluate.tasks import coco as task
from tests.evaluate.coco_small import as_results, coco, write


def naive_ap(truth: Coco, results: list[dict[str, Any]], category: int, iou: float) -> float:
    """AP of one class from the definition: greedy matching by score, crowds absorb, 101 recalls."""
    n_objects, hits = 0, []
    for picture in truth.pictures:
        notes = [n for n in truth.objects[picture.id] if n["category_id"] == category]
        n_objects += sum(not n["iscrowd"] for n in notes)
        own = [r for r in results if (r["image_id"], r["category_id"]) == (picture.id, category)]
        taken: set[int] = set()
        for result in sorted(own, key=lambda r: -r["score"]):
            best, best_iou = None, iou
            for number, entry in enumerate(notes):
                value = overlap(result["bbox"], entry["bbox"], bool(entry["iscrowd"]))
                if number not in taken and not entry["iscrowd"] and value >= best_iou:
                    best, best_iou = number, value
            if best is not None:
                taken.add(best)
                hits.append((result["score"], True))
            elif not any(n["iscrowd"] and overlap(result["bbox"], n["bbox"], True) >= iou for n in notes):
                hits.append((result["score"], False))
    ordered = [hit for _, hit in sorted(hits, key=lambda h: -h[0])]
    points = [(sum(ordered[:k]) / n_objects, sum(ordered[:k]) / k) for k in range(1, len(ordered) + 1)]
    return float(
        np.mean([max([p for r, p in points if r >= level - 1e-12], default=0) for level in np.linspace(0, 1, 101)])
    )


def overlap(a: list[float], b: list[float], crowd: bool) -> float:
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    area = a[2] * a[3]
    return width * height / (area if crowd else area + b[2] * b[3] - width * height)


@pytest.fixture
def truth(tmp_path: Path) -> Coco:
    return read_coco(coco(tmp_path, n_train=1, n_val=6), "val2017")


def document_of(root: Path, split: str = "val2017") -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_truth_scores_one(truth: Coco, tmp_path: Path) -> None:
    """Also the object whose annotation has id 0, and whatever falls into a crowd."""
    results = as_results(document_of(tmp_path))
    crowded = {**results[0], "image_id": 2, "category_id": 3, "bbox": [3, 0, 9, 6], "score": 0.95}
    crowded["segmentation"] = next(n["segmentation"] for n in truth.objects[2] if n["iscrowd"])
    figures, rows = score(truth, [*results, crowded])
    assert figures == {
        f"{kind}_{name}": 1.0 for kind in ("box", "mask") for name in ("ap", "ap50", "ap75", "ap_small", "ar")
    }
    assert [row["class"] for row in rows] == ["blue", "red"]  # by category id
    assert [row["objects"] for row in rows] == [6, 6]
    assert all(row[f"{kind}_{name}"] == 1 for row in rows for kind in ("box", "mask") for name in ("ap", "ap50"))


def test_ap_by_loops(truth: Coco, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results = []
    for result in as_results(document_of(tmp_path)) * 2:
        shifted = (np.array(result["bbox"]) + rng.normal(0, 2.0, 4)).tolist()
        results.append({**result, "bbox": shifted, "score": float(rng.random())})
    figures, rows = score(truth, results)
    ious = np.linspace(0.5, 0.95, 10)
    expected = {number: [naive_ap(truth, results, number, iou) for iou in ious] for number in truth.names}
    for row, number in zip(rows, truth.names, strict=True):
        assert row["box_ap"] == pytest.approx(np.mean(expected[number]))
        assert row["box_ap50"] == pytest.approx(expected[number][0])
    assert figures["box_ap"] == pytest.approx(np.mean(list(expected.values())))
    assert figures["box_ap75"] == pytest.approx(np.mean([aps[5] for aps in expected.values()]))
    assert 0.05 < figures["box_ap"] < 0.9


@pytest.mark.parametrize("mask_size", ["mask", "box"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_on_the_files(seed: int, mask_size: Any, tmp_path: Path) -> None:
    """Crowds, plain and compressed run lengths, equal scores, more than 100 detections; every official figure."""
    rng = np.random.default_rng(seed)
    document, results = scattered(rng)
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    gt.write_text(json.dumps(document))
    pred.write_text(json.dumps(results))
    truth = read_instances(gt)
    figures, _ = score(truth, read_results(pred, truth), mask_size)
    for kind, (word, _) in KINDS.items():
        if word == "segm" and mask_size == "mask":
            results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
        official = COCOeval(COCO(gt), COCO(gt).loadRes(results), word)
        official.evaluate()
        official.accumulate()
        official.summarize()
        for name, place in FIGURES.items():
            assert figures.get(f"{kind}_{name}", -1.0) == official.stats[place], (kind, name)


def decoded(counts: str) -> list[int]:
    runs = run_lengths(counts)
    assert runs is not None
    return [int(run) for run in runs]


def scattered(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects in three pictures and detections about them; masks are full of holes, so that areas differ."""
    sides = [(60, 80), (200, 150), (7, 300)]
    images = [{"id": 5 * i + 2, "file_name": f"{i}.jpg", "height": h, "width": w} for i, (h, w) in enumerate(sides)]
    notes, results = [], []
    for image, (height, width) in zip(images, sides, strict=True):
        for number in range(6):
            x, y = int(rng.integers(0, width - 2)), int(rng.integers(0, height - 2))
            box = [x, y, int(rng.integers(1, width - x)), int(rng.integers(1, height - y))]
            own = {"image_id": image["id"], "category_id": int(rng.choice([3, 9])), "bbox": box}
            pixels = np.zeros((height, width), np.uint8)
            pixels[y : y + box[3], x : x + box[2]] = rng.random((box[3], box[2])) < 0.6
            coded = mask.encode(np.asfortranarray(pixels))
            text = {**coded, "counts": coded["counts"].decode()}
            crowd = number == 0
            plain = {"size": [height, width], "counts": decoded(text["counts"])}
            area = float(pixels.sum())
            notes.append(
                {**own, "id": len(notes) + 1, "iscrowd": crowd, "area": area, "segmentation": plain if crowd else text}
            )
            for _ in range(1 if number else 105):
                near = [max(0, v + int(rng.integers(-1, 2))) for v in box[:2]] + box[2:]
                results.append({**own, "bbox": near, "score": float(rng.choice([0.2, 0.5, 0.9])), "segmentation": text})
    return {"images": images, "annotations": notes, "categories": [{"id": 3}, {"id": 9}]}, results


@pytest.mark.parametrize("runs", [[0, 600], [17, 3, 40, 540], [100_000, 1, 1, 99_999, 5]])
def test_run_lengths_are_those_of_pycocotools(runs: list[int]) -> None:
    code = mask.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)["counts"].decode()
    assert decoded(code) == runs and fits(code, sum(runs)) and not fits(code, sum(runs) + 1)


def test_no_detections_and_boxes_alone(truth: Coco, tmp_path: Path) -> None:
    assert set(score(truth, [])[0].values()) == {0.0}
    results = as_results(document_of(tmp_path))
    for result in results:
        del result["segmentation"]
    figures, rows = score(truth, results)
    assert figures["box_ap"] == 1 and "mask_ap" not in figures and "mask_ap" not in rows[0]


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    root = coco(tmp_path, 1, 3)
    gt, pred, out = root / "annotations/instances_val2017.json", tmp_path / "results.json", tmp_path / "score.json"
    pred.write_text(json.dumps(as_results(document_of(root))))
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'x'; import runpy; "
        "runpy.run_module('components.evaluate.tasks.coco', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "score", "--gt", str(gt), "--pred", str(pred), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["metrics"]["mask_ap"] == 1.0 and "box_ap50" in done.stdout
    assert "Accumulating" not in done.stdout


def scored(gt: Path, pred: Path, capsys: Any) -> str:
    argv = ["score", "--gt", str(gt), "--pred", str(pred), "--json", str(gt.parent / "out.json")]
    assert score_main("coco", "", task._arguments, task._score, argv) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "detection 1 has image_id 77, which there is not"),
        ({"category_id": 2}, "detection 1 has category_id 2, which there is not"),
        ({"image_id": [1]}, "detection 1 has image_id [1], which there is not"),
        ({"score": None}, "detection 1 has no score"),
        ({"bbox": [1, 2, 3]}, "detection 1 has no box"),
        ({"bbox": [1, 2, -3, 4]}, "detection 1 has no box"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "detection 1 has polygons"),
        ({"segmentation": {"size": [4, 4], "counts": "x"}}, "detection 1 is of size [4, 4], its image [44, 58]"),
        ({"segmentation": {"size": [4, 4]}}, "the segmentation of detection 1 is neither"),
    ],
)
def test_broken_results(change: dict[str, Any], message: str, tmp_path: Path, capsys: Any) -> None:
    root = coco(tmp_path, 1, 1)
    results = as_results(document_of(root))
    results[1] |= change
    pred = tmp_path / "results.json"
    pred.write_text(json.dumps(results))
    assert message in scored(root / "annotations/instances_val2017.json", pred, capsys)


def broken(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**document, **changes}


def test_broken_annotations(tmp_path: Path) -> None:
    root = coco(tmp_path, 1, 2)
    good = document_of(root)
    first, image = good["annotations"][0], good["images"][0]
    for document, message in (
        ([], "expected a mapping"),
        (broken(good, images=None), "no list 'images'"),
        (broken(good, images=good["images"] + [image]), "two images have the same id"),
        (broken(good, categories=good["categories"] * 2), "two categories have the same id"),
        (broken(good, images=[{**image, "height": "4"}]), "image 0 has no 'height'"),
        (broken(good, annotations=[]), "there is no annotation"),
        (broken(good, annotations=[{**first, "image_id": 9}]), "annotation 0 has image_id 9, which there is not"),
        (broken(good, annotations=[{**first, "category_id": 2}]), "annotation 0 has category_id 2"),
        (broken(good, annotations=[{**first, "bbox": [0, 0, float("nan"), 1]}]), "annotation 0 has no box"),
        (broken(good, annotations=[{**first, "segmentation": {"size": [2, 2], "comment": "x"}}]), "neither polygons"),
        (broken(good, annotations=[{**first, "segmentation": [[1, 2, 3, 4, 5]]}]), "neither polygons"),
        (broken(good, annotations=[{**first, "segmentation": [["1", 2]]}]), "neither polygons"),
        (broken(good, annotations=[{**first, "iscrowd": "yes"}]), 'iscrowd "yes", expected 0 or 1'),
        (broken(good, annotations=[{**first, "area": None}]), "area null, expected a number"),
        (broken(good, annotations=[7]), "annotation is no mapping: 7"),
    ):
        with pytest.raises(StageError, match=message):
            read_instances(write(root, "val2017", document))  # type: ignore[arg-type]
    (root / "annotations/instances_val2017.json").write_text("{")
    with pytest.raises(StageError, match="not readable as JSON"):
        read_coco(root, "val2017")


def test_broken_layouts(tmp_path: Path) -> None:
    root = coco(tmp_path, 1, 1)
    with pytest.raises(StageError, match=r"no annotations of test2017: .*there are: train2017, val2017"):
        read_coco(root, "test2017")
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images/val2017")
    assert read_coco(root, "val2017").pictures[0].file == root / "images/val2017/val2017_0.jpg"
    (root / "images/val2017/val2017_0.jpg").unlink()
    with pytest.raises(StageError, match="the annotations name a picture that is not there"):
        read_coco(root, "val2017")
    (root / "images/val2017").rename(root / "other")
    with pytest.raises(StageError, match="no folder of the pictures of val2017"):
        read_coco(root, "val2017")
