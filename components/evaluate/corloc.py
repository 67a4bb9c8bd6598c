"""Correct localisation (CorLoc): the share of pictures whose one predicted box hits an object. Needs no encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.layouts.coco import read_json

Boxes = Mapping[str, Sequence[float]]  # picture name -> x0, y0, x1, y1 in pixels, x1 and y1 exclusive


def overlaps(box: Sequence[float], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box with boxes (n, 4); 0 for boxes without area."""
    x0, y0 = np.maximum(others[:, 0], box[0]), np.maximum(others[:, 1], box[1])
    x1, y1 = np.minimum(others[:, 2], box[2]), np.minimum(others[:, 3], box[3])
    both = np.clip(x1 - x0, 0, None) * np.clip(y1 - y0, 0, None)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    either = areas + (box[2] - box[0]) * (box[3] - box[1]) - both
    return np.divide(both, either, out=np.zeros(len(others)), where=either > 0)


def corloc_rows(found: Boxes, truth: Mapping[str, Sequence[Sequence[float]]], least_iou: float) -> list[dict[str, Any]]:
    """One row per picture that has an object: its best IoU, and whether that is at least `least_iou`.

    Raises:
        StageError: a picture has no predicted box, or no picture has an object.
    """
    rows = []
    for name, boxes in truth.items():
        if not boxes:  # nothing that could be found; the released code has no such picture in its sets
            continue
        if name not in found:
            raise StageError(f"no predicted box for picture {name}")
        best = float(overlaps(found[name], np.array(boxes, np.float64)).max())
        rows.append({"image": name, "iou": best, "found": best >= least_iou, "objects": len(boxes)})
    if not rows:
        raise StageError("nothing to score: no picture shows an object")
    return rows


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """CorLoc, and the mean of the best IoU, which tells near misses from far ones."""
    return {
        "corloc": float(np.mean([row["found"] for row in rows])),
        "mean_best_iou": float(np.mean([row["iou"] for row in rows])),
    }


def read_boxes(file: Path) -> dict[str, list[float]]:
    """Predicted boxes from JSON, `{"name": [x0, y0, x1, y1], ...}`."""
    document = read_json(file)
    if not isinstance(document, dict):
        raise StageError("expected a mapping from picture names to boxes", where=file)
    for name, box in document.items():
        numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        if not numbers or not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise StageError(f"the box of {name} is no [x0, y0, x1, y1]: {json.dumps(box)[:60]}", where=file)
    return document
