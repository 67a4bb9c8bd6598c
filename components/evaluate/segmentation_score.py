"""Mean intersection over union from label maps: the part of dense tasks that needs no encoder."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.cluster_maps import add_list, maps_in
from components.evaluate.images import read_index

VOID = 255

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]
Average = Literal["occurring", "present", "all"]


def confusion(truth: Labels, predicted: Labels, n_classes: int) -> Counts:
    """(C, C) pixel counts [true class, predicted class]; void pixels of the truth are left out."""
    kept = truth != VOID
    pairs = truth[kept].astype(np.int64) * n_classes + predicted[kept]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def figures(counts: Counts, average: Average = "occurring") -> dict[str, float]:
    """mIoU, and the share of pixels that are right.

    Args:
        average: classes in the mean. `occurring` in truth or prediction, as segmentation toolboxes have it; `present`
            in the truth (TimeT's released code); `all`, of which one that occurs nowhere counts 0 (Leopart's). The
            three agree where the truth holds every class, as VOC's val does.
    """
    iou = class_iou(counts)
    iou = iou[counts.sum(1) > 0] if average == "present" else np.nan_to_num(iou) if average == "all" else iou
    return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(np.trace(counts) / counts.sum())}


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """IoU of each class, NaN for one that occurs nowhere."""
    both = np.diag(counts).astype(np.float64)
    either = counts.sum(0) + counts.sum(1) - both
    return np.divide(both, either, out=np.full(len(counts), np.nan), where=either > 0)


def score_pairs(pairs: Iterable[tuple[Path, Path]], n_classes: int) -> Counts:
    """Confusion counts over (true, predicted) label maps.

    Raises:
        StageError: a map is missing or unreadable, sizes differ, or a label is beyond the classes.
    """
    counts = np.zeros((n_classes, n_classes), np.int64)
    for truth_file, predicted_file in pairs:
        truth, predicted = read_index(truth_file), read_index(predicted_file)
        if truth.shape != predicted.shape:
            what = f"the predicted map is {predicted.shape[1]}x{predicted.shape[0]}, the true one "
            raise StageError(what + f"{truth.shape[1]}x{truth.shape[0]}", where=predicted_file)
        check_labels(truth[truth != VOID], n_classes, truth_file)
        check_labels(predicted, n_classes, predicted_file)
        counts += confusion(truth, predicted, n_classes)
    if not counts.any():
        raise StageError("nothing to score: every pixel is void")
    return counts


def check_labels(labels: Labels, n_classes: int, file: Path) -> None:
    """StageError for a label that is no class."""
    if labels.size and int(labels.max()) >= n_classes:
        what = f"label {int(labels.max())} in a benchmark of {n_classes} classes (0..{n_classes - 1})"
        raise StageError(what, where=file)


def score_folders(
    truth: Path, predicted: Path, n_classes: int, names: Path | None = None, average: Average = "occurring"
) -> dict[str, Any]:
    """Figures of `predicted/<name>.png` against `truth/<name>.png`, for a list's pictures or all predicted ones."""
    if not 2 <= n_classes <= VOID:
        raise StageError(f"the number of classes must be 2 to {VOID}, got {n_classes}")
    for folder in (truth, predicted):
        if not folder.is_dir():
            raise StageError("no such folder", where=folder)
    files = maps_in(predicted, names)
    counts = score_pairs([(truth / f"{name}.png", file) for name, file in files.items()], n_classes)
    rows = class_rows(counts, [str(i) for i in range(n_classes)])
    return {"metrics": figures(counts, average), "classes": rows, "n": len(files)}


def class_rows(counts: Counts, names: list[str]) -> list[dict[str, Any]]:
    """One row per class: IoU (null where it occurs nowhere) and pixel counts."""
    return [
        {
            "class": name,
            "iou": None if np.isnan(iou) else float(iou),
            "true_pixels": int(counts[i].sum()),
            "predicted_pixels": int(counts[:, i].sum()),
        }
        for i, (name, iou) in enumerate(zip(names, class_iou(counts), strict=True))
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the `score` command."""
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 255 = void)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted ones with the same names")
    parser.add_argument("--num-classes", type=int, required=True, help="labels are 0..N-1")
    add_list(parser)
    what = "classes in the mean: those in truth or prediction, in the truth, or every one"
    parser.add_argument("--average", choices=get_args(Average), default="occurring", help=what)


def score_command(args: argparse.Namespace) -> dict[str, Any]:
    """What `score` writes."""
    return score_folders(args.gt, args.pred, args.num_classes, args.set, args.average)
