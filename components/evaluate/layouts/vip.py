"""VIP, Video Instance-level Parsing, as its fine annotations are laid out (`VIP_Fine`; Zhou et al., arXiv:1808.00661).

Images/<video>/*.jpg    Annotations/Category_ids/<video>/*.png    lists/val_videos.txt

Every frame here is annotated; they lie about 25 frames of the source apart. A pixel's value is its class.
"""

from __future__ import annotations

from pathlib import Path

from components.common.errors import StageError
from components.evaluate.layouts.davis import Sequence, read_list, read_sequence

CLASSES = [
    *("background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves"),
    *("scarf", "skirt", "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg"),
    *("right-shoe", "left-shoe"),
]
FRAMES, LABELS, LISTS = "Images", "Category_ids", "lists"


def read_vip(root: Path, video_list: str = "val_videos") -> list[Sequence]:
    """The listed videos, each with a label map on every frame.

    Raises:
        StageError: a folder or the list is missing, or frames and label maps disagree in number, name or size.
    """
    labels = label_root(root)
    if not (root / FRAMES).is_dir():
        raise StageError(f"not in VIP layout, no {FRAMES} folder", where=root)
    names = video_names(root, video_list)
    return [read_sequence(name, root / FRAMES / name, labels / name, sparse=False) for name in names]


def label_root(root: Path) -> Path:
    """The folder of label maps: below Annotations, or beside the pictures as in the official archive."""
    for folder in (root / "Annotations" / LABELS, root / LABELS):
        if folder.is_dir():
            return folder
    raise StageError(f"not in VIP layout, no Annotations/{LABELS} folder", where=root)


def video_names(root: Path, video_list: str) -> list[str]:
    """Names in lists/<video_list>.txt."""
    return read_list(root / LISTS / f"{video_list}.txt")
