"""mIoU of part labels over whole videos, from folders of label maps; needs no model and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.common.errors import StageError
from components.evaluate.images import pictures_in, read_index
from components.evaluate.layouts.vip import CLASSES
from components.evaluate.segmentation_score import VOID, Counts, check_labels, class_rows, confusion, figures

N_CLASSES = len(CLASSES)
ENDINGS = ("", "_mask")  # ours; the released codes' name


def score_parts(truth: Path, predicted: Path, names: Sequence[str], first_frame: bool = True) -> dict[str, Any]:
    """Figures, a row per class and a row per video of `predicted/<video>/<frame>.png`.

    One table of (true, predicted) pixels over all videos, IoU of each class, mean over the classes that occur, the
    background too. Predictions of another size are brought to the truth's (nearest); true values that are no class
    are left out.

    Raises:
        StageError: a folder or map is missing or unreadable, or a predicted value is no class.
    """
    counts = [video_counts(name, truth / name, predicted / name, first_frame) for name in names]
    if not np.sum(counts):
        raise StageError("nothing to score: no pixel of the truth has a class", where=truth)
    rows = [{"video": name, "miou": figures(own)["miou"]} for name, own in zip(names, counts, strict=True) if own.any()]
    whole = np.sum(counts, axis=0)
    return {"metrics": figures(whole), "classes": class_rows(whole, CLASSES), "videos": rows}


def video_counts(name: str, truth: Path, predicted: Path, first_frame: bool) -> Counts:
    """(20, 20) pixel counts [true, predicted] of one video."""
    for folder in (truth, predicted):
        if not folder.is_dir():
            raise StageError(f"no label maps of video {name}", where=folder)
    if not pictures_in(truth):
        raise StageError(f"no label maps of video {name}", where=truth)
    counts = np.zeros((N_CLASSES, N_CLASSES), np.int64)
    for file in pictures_in(truth)[0 if first_frame else 1 :]:
        true, found = read_index(file), _predicted(predicted, file.stem)
        if found.shape != true.shape:
            found = np.array(Image.fromarray(found).resize(true.shape[::-1], Image.Resampling.NEAREST))
        counts += confusion(np.where(true < N_CLASSES, true, VOID).astype(np.uint8), found, N_CLASSES)
    return counts


def _predicted(folder: Path, stem: str) -> np.ndarray:
    files = [folder / f"{stem}{ending}.png" for ending in ENDINGS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise StageError("a predicted label map is missing", where=files[0])
    found = read_index(file)
    check_labels(found, N_CLASSES, file)
    return found
