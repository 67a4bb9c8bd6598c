"""Semantic segmentation benchmarks in Pascal VOC layout.

JPEGImages/<name>.jpg    SegmentationClass/<name>.png    ImageSets/Segmentation/{train,val}.txt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.common.errors import StageError
from components.evaluate.images import size_of
from components.evaluate.layouts.davis import read_list

VOID = 255
CLASSES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]


@dataclass(frozen=True)
class Segmentation:
    """One split: a label map for each picture, in the list's order."""

    names: list[str]
    images: list[Path]
    masks: list[Path]


def read_voc(root: Path, split: str, mask_folder: str = "SegmentationClass") -> Segmentation:
    """One split of the benchmark.

    Args:
        root: folder with JPEGImages (as inside VOCdevkit/VOC2012).
        split: list under ImageSets/Segmentation, without `.txt`.
        mask_folder: folder of the label maps (`SegmentationClassAug` for the list `trainaug`).

    Raises:
        StageError: a folder, list, picture or label map is missing, or a map's size is not its picture's.
    """
    for folder in ("JPEGImages", mask_folder, "ImageSets/Segmentation"):
        if not (root / folder).is_dir():
            raise StageError(f"not in Pascal VOC layout, no {folder} folder", where=root)
    names = read_list(root / "ImageSets/Segmentation" / f"{split}.txt")
    found = Segmentation(
        names,
        [root / "JPEGImages" / f"{name}.jpg" for name in names],
        [root / mask_folder / f"{name}.png" for name in names],
    )
    for name, image, mask in zip(found.names, found.images, found.masks, strict=True):
        _check_pair(name, image, mask)
    return found


def _check_pair(name: str, image: Path, mask: Path) -> None:
    if not image.is_file():
        raise StageError(f"masks and images disagree: {name} is listed but has no image", where=image)
    if not mask.is_file():
        raise StageError(f"masks and images disagree: {name} has an image and no mask", where=mask)
    (h, w), (mask_h, mask_w) = size_of(image), size_of(mask)
    if (h, w) != (mask_h, mask_w):
        raise StageError(f"sizes disagree: image {name} is {w}x{h}, its mask {mask_w}x{mask_h}", where=mask)
