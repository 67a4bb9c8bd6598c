"""Figures of foreground masks against label maps, read from files; needs no model and no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.evaluate import cbfe
from components.evaluate.cbfe import Mask
from components.evaluate.cluster_maps import square_side
from components.evaluate.images import read_index
from components.evaluate.layouts.voc import VOID

Row = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """How a mask is scored.

    Attributes:
        void: what 255 is in the truth, `foreground` or `background`.
        tolerance_px: contours nearer than this match.
        boundary_of: whose contour is the true one, of the `foreground` or the `background`.
    """

    void: str
    tolerance_px: float
    boundary_of: str


def true_foreground(file: Path, side: int, void: str) -> Mask:
    """(side, side) pixels that are no background (nearest)."""
    small = Image.fromarray(read_index(file)).resize((side, side), Image.Resampling.NEAREST)
    labels = np.array(small)
    return (labels > 0) & (labels != VOID) if void == "background" else labels > 0


def score_files(pairs: list[tuple[str, Path, Path]], rule: Rule) -> list[Row]:
    """IoU and boundary F of each (name, label map, predicted foreground); a prediction is what is not 0."""
    rows = []
    for name, truth_file, predicted_file in pairs:
        predicted = read_index(predicted_file) > 0
        truth = true_foreground(truth_file, square_side(predicted, predicted_file), rule.void)
        both, union = np.count_nonzero(truth & predicted), np.count_nonzero(truth | predicted)
        shape = truth if rule.boundary_of == "foreground" else ~truth
        f = cbfe.boundary_f(shape, predicted, rule.tolerance_px)
        rows.append({"name": name, "iou": both / union if union else 1.0, "boundary_f": f})
    return rows


def figures(rows: list[Row]) -> dict[str, float]:
    """Means over pictures; those without a true contour have no boundary F."""
    with_contour = [row["boundary_f"] for row in rows if row["boundary_f"] is not None]
    means = {"iou": float(np.mean([row["iou"] for row in rows]))}
    return {**means, "boundary_f": float(np.mean(with_contour))} if with_contour else means
