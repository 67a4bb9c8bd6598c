"""mIoU, mAcc and aAcc of scene parsing: the part of the ADE20K tasks that needs no encoder.

Long et al., "Fully convolutional networks for semantic segmentation" (CVPR 2015), section 5; n_ij counts the pixels of
class i taken for class j, t_i = sum_j n_ij:  aAcc = sum_i n_ii / sum_i t_i,  mAcc = mean_i n_ii / t_i,
mIoU = mean_i n_ii / (t_i + sum_j n_ji - n_ii). Means are over the classes for which the fraction is defined.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.cluster_maps import add_list, maps_in
from components.evaluate.images import read_index
from components.evaluate.layouts.ade20k import N_CLASSES, read_scene
from components.evaluate.segmentation_score import Counts, class_iou, confusion

Row = dict[str, Any]


def figures(counts: Counts) -> dict[str, float]:
    """`miou`, `macc` and `aacc` of confusion counts (C, C) [true class, predicted class]."""
    return {
        "miou": float(np.nanmean(class_iou(counts))),
        "macc": float(np.nanmean(class_accuracy(counts))),
        "aacc": float(np.trace(counts) / counts.sum()),
    }


def class_accuracy(counts: Counts) -> NDArray[np.float64]:
    """Share of each class's pixels that are right, NaN for a class without any."""
    true, right = counts.sum(1).astype(np.float64), np.diag(counts)
    return np.divide(right, true, out=np.full(len(counts), np.nan), where=true > 0)


def class_rows(counts: Counts, names: Sequence[str]) -> list[Row]:
    """One row per class: IoU and accuracy (null where undefined), and pixel counts."""
    iou, accuracy = class_iou(counts), class_accuracy(counts)
    return [
        {
            "class": name,
            "iou": None if np.isnan(iou[i]) else float(iou[i]),
            "accuracy": None if np.isnan(accuracy[i]) else float(accuracy[i]),
            "true_pixels": int(counts[i].sum()),
            "predicted_pixels": int(counts[:, i].sum()),
        }
        for i, name in enumerate(names)
    ]


def score_maps(pairs: Sequence[tuple[Path, Path]], n_classes: int = N_CLASSES) -> Counts:
    """Confusion counts over (true, predicted) label maps, both as ADE20K counts: classes from 1, 0 = other.

    Raises:
        StageError: a map is missing or unreadable, sizes differ, a label is beyond the classes, a prediction is 0 where
            the truth is a class, or there is nothing to score.
    """
    counts = np.zeros((n_classes, n_classes), np.int64)
    for truth_file, predicted_file in pairs:
        truth, predicted = read_scene(truth_file, n_classes), read_index(predicted_file)
        if truth.shape != predicted.shape:
            what = f"the predicted map is {predicted.shape[1]}x{predicted.shape[0]}, the true one "
            raise StageError(what + f"{truth.shape[1]}x{truth.shape[0]}", where=predicted_file)
        asked = predicted[truth != 255]
        if asked.size and not 1 <= asked.min() <= asked.max() <= n_classes:
            what = f"predicted labels run from {asked.min()} to {asked.max()}, classes from 1 to {n_classes}"
            raise StageError(what, where=predicted_file)
        counts += confusion(truth, (predicted - 1).astype(np.uint8), n_classes)
    if not counts.any():
        raise StageError("nothing to score: no pixel has a class")
    return counts


def score_folders(
    truth: Path, predicted: Path, n_classes: int = N_CLASSES, names: Path | None = None
) -> dict[str, Any]:
    """Figures of the maps in `predicted` against those of the same names in `truth`; StageError if there are none."""
    if not 2 <= n_classes <= 255:
        raise StageError(f"the number of classes must be 2 to 255, got {n_classes}")
    for folder in (truth, predicted):
        if not folder.is_dir():
            raise StageError("no such folder", where=folder)
    files = maps_in(predicted, names)
    counts = score_maps([(truth / f"{name}.png", file) for name, file in files.items()], n_classes)
    rows = class_rows(counts, [str(i) for i in range(1, n_classes + 1)])
    return {"metrics": figures(counts), "classes": rows, "n": len(files)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the `score` command."""
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 0 = other)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted ones with the same names")
    parser.add_argument("--num-classes", type=int, default=N_CLASSES, help="labels are 1..N")
    add_list(parser)


def score_command(args: argparse.Namespace) -> dict[str, Any]:
    """What `score` writes."""
    return score_folders(args.gt, args.pred, args.num_classes, args.set)
