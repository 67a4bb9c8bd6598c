"""Pictures and label maps brought to a square, their aspect ratio given up as the published protocols do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import StageError
from components.evaluate.images import read_index, read_rgb
from components.evaluate.layouts.voc import CLASSES
from components.evaluate.segmentation_score import VOID, check_labels


def square(file: Path, side: int) -> NDArray[np.uint8]:
    """The whole picture as (side, side, 3), bilinear."""
    return np.array(read_rgb(file).resize((side, side), Image.Resampling.BILINEAR))


def square_labels(file: Path, side: int, n_classes: int) -> NDArray[np.uint8]:
    """The whole label map as (side, side), nearest; StageError for a label that is neither a class nor void."""
    labels = read_index(file)
    check_labels(labels[labels != VOID], n_classes, file)
    return np.array(Image.fromarray(labels).resize((side, side), Image.Resampling.NEAREST))


def count_classes(masks: list[Path], told: int | None) -> int:
    """The number told, else one more than the largest label of all maps."""
    if told is not None:
        return told
    largest = 0
    for file in masks:
        labels = read_index(file)
        largest = max(largest, int(labels[labels != VOID].max(initial=0)))
    if largest == 0:
        raise StageError("the label maps hold background only", where=masks[0].parent)
    return largest + 1


def class_names(n_classes: int) -> list[str]:
    """Pascal VOC's names where there are as many classes, else numbers."""
    return CLASSES if n_classes == len(CLASSES) else [str(i) for i in range(n_classes)]
