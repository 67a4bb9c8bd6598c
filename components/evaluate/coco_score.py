"""Box and mask AP of COCO by pycocotools. Needs no encoder and no torch.

Detections are the official results format: a list of {image_id, category_id, score, bbox, segmentation}.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.common.errors import StageError
from components.evaluate.layouts.coco import Coco, check_box, check_ids, check_segmentation, read_json

Result = dict[str, Any]
MaskSize = Literal["mask", "box"]
KINDS = {"box": ("bbox", "bbox"), "mask": ("segm", "segmentation")}  # pycocotools' word, key of a detection
FIGURES = {  # place among the official twelve
    "ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5, "ar": 8,
}  # fmt: skip


def score(
    truth: Coco, results: Sequence[Result], mask_size: MaskSize = "mask"
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Figures (`box_ap`, `mask_ap50`, ...) and one row per category.

    Masks are scored where the annotations and every detection have them, boxes likewise. A figure over objects of a
    size that does not occur is left out. Crowds are matched as pycocotools does: any number of detections may fall
    into one, none of them counts.

    Args:
        mask_size: whether a detected mask is small, medium or large by its own area (as detectron2 and mmdetection have
            it), or by that of its box where it has one (pycocotools' `loadRes` on a file with both).
    """
    figures: dict[str, float] = {}
    rows = {number: {"class": name, "objects": _count(truth, number)} for number, name in truth.names.items()}
    for kind, (word, key) in KINDS.items():
        if not all(key in note for notes in truth.objects.values() for note in notes):
            continue
        if not all(key in result for result in results):
            continue
        official = _official(truth, results, word, mask_size)
        found = {f"{kind}_{name}": float(official.stats[place]) for name, place in FIGURES.items()}
        figures |= {name: value for name, value in found.items() if value > -1}
        for number, per_class in zip(official.params.catIds, _by_class(official), strict=True):
            rows[number] |= {f"{kind}_{name}": value for name, value in per_class.items()}
    if all(note.get("iscrowd") or note.get("ignore") for notes in truth.objects.values() for note in notes):
        raise StageError("nothing to score: every annotation is a crowd, or to be ignored")
    if not figures:
        raise StageError("nothing to score: annotations and detections have neither boxes nor masks in common")
    return figures, list(rows.values())


def _official(truth: Coco, results: Sequence[Result], word: str, mask_size: MaskSize) -> Any:
    """A finished COCOeval."""
    from pycocotools.cocoeval import COCOeval

    # its matching takes an annotation of id 0 for no annotation, so they are counted from 1 anew
    notes = [dict(note, id=0) for picture in truth.pictures for note in truth.objects[picture.id]]
    for number, note in enumerate(notes, start=1):
        note |= {"id": number, "iscrowd": int(note.get("iscrowd") or 0)}
        note.setdefault("area", note["bbox"][2] * note["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCOeval(_coco(truth, notes), _coco(truth, _detections(results, word, mask_size)), word)
        official.evaluate()
        official.accumulate()
        official.summarize()
    return official


def _coco(truth: Coco, notes: list[Result]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    images = [{"id": p.id, "height": p.height, "width": p.width} for p in truth.pictures]
    categories = [{"id": number, "name": name} for number, name in truth.names.items()]
    coco.dataset = {"images": images, "categories": categories, "annotations": notes}
    coco.createIndex()
    return coco


def _detections(results: Sequence[Result], word: str, mask_size: MaskSize) -> list[Result]:
    """Detections as annotations, with the area that decides their size class."""
    from pycocotools import mask

    found = []
    for number, result in enumerate(results, start=1):
        by_box = word == "bbox" or (mask_size == "box" and "bbox" in result)
        area = result["bbox"][2] * result["bbox"][3] if by_box else float(mask.area(result["segmentation"]))
        found.append({**result, "id": number, "iscrowd": 0, "area": area})
    return found


def _by_class(official: Any) -> list[dict[str, float | None]]:
    """AP and AP50 of each category, all sizes, 100 detections a picture; None for one that does not occur."""
    precision = official.eval["precision"][:, :, :, 0, -1]  # IoU thresholds, recalls, categories
    means = []
    for number in range(precision.shape[2]):
        of_class = precision[:, :, number]
        known = bool((of_class > -1).any())
        means.append(
            {"ap": float(of_class.mean()) if known else None, "ap50": float(of_class[0].mean()) if known else None}
        )
    return means


def _count(truth: Coco, category: int) -> int:
    return sum(
        note["category_id"] == category and not note.get("iscrowd")
        for notes in truth.objects.values()
        for note in notes
    )


def read_results(file: Path, truth: Coco) -> list[Result]:
    """Detections from a results file, checked against the annotations they are of."""
    results = read_json(file)
    if not isinstance(results, list):
        raise StageError("not COCO's results: expected a list of detections", where=file)
    sizes = {picture.id: (picture.height, picture.width) for picture in truth.pictures}
    for number, result in enumerate(results):
        what = f"detection {number}"
        check_ids(result, truth, what, file)
        if type(result.get("score")) not in (int, float) or not np.isfinite(result["score"]):
            raise StageError(f"{what} has no score", where=file)
        if "bbox" in result:
            check_box(result["bbox"], what, file)
        if "segmentation" in result:
            check_segmentation(result["segmentation"], sizes[result["image_id"]], what, file)
            if isinstance(result["segmentation"], list):
                raise StageError(f"{what} has polygons, results have run-length codes", where=file)
            if not isinstance(result["segmentation"]["counts"], str):
                raise StageError(f"{what} has plain run lengths, results have compressed ones", where=file)
    return results
