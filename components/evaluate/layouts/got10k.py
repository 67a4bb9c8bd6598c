"""GOT-10k: one object a video, followed by boxes (Huang et al., arXiv:1810.11981).

<subset>/list.txt    <subset>/<sequence>/00000001.jpg, groundtruth.txt, cover.label, absence.label, meta_info.ini

groundtruth.txt has a line `x,y,w,h` a frame, in pixels. cover.label has the visible share of the object a frame, 0 to
8; frames at 0 are not scored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.images import pictures_in, size_of
from components.evaluate.layouts.davis import read_list

LIST, TRUTH, COVER, META = "list.txt", "groundtruth.txt", "cover.label", "meta_info.ini"
RESOLUTION = re.compile(r"^resolution:\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*$", re.MULTILINE)

Boxes = NDArray[np.float64]  # (T, 4) x, y, w, h in pixels


@dataclass(frozen=True)
class Track:
    """One video's truth.

    Attributes:
        boxes: (T, 4).
        cover: (T,) 0 where the object cannot be seen.
        bound: (width, height) to which boxes are clipped.
    """

    name: str
    boxes: Boxes
    cover: NDArray[np.float64]
    bound: tuple[int, int]


def read_got10k(root: Path, subset: str = "val") -> list[tuple[Track, list[Path]]]:
    """The listed videos' truth and frames.

    Raises:
        StageError: a list, file or frame is missing, a file is malformed, or counts of frames and lines disagree.
    """
    found = []
    for name in sequence_names(root, subset):
        track = read_track(root / subset / name)
        frames = [file for file in pictures_in(root / subset / name) if file.suffix.lower() == ".jpg"]
        if len(frames) != len(track.boxes):
            what = f"sequence {name} has {len(frames)} frames and {len(track.boxes)} boxes"
            raise StageError(what, where=root / subset / name)
        found.append((track, frames))
    return found


def sequence_names(root: Path, subset: str) -> list[str]:
    """Names in <subset>/list.txt."""
    if not (root / subset).is_dir():
        raise StageError(f"not in GOT-10k layout, no {subset} folder", where=root)
    return read_list(root / subset / LIST)


def read_track(folder: Path) -> Track:
    """One video's boxes, cover and size; without cover.label every frame counts as seen."""
    if not folder.is_dir():
        raise StageError(f"sequence {folder.name} is listed but has no folder", where=folder)
    boxes = read_boxes(folder / TRUTH)
    cover = np.ones(len(boxes))
    if (folder / COVER).is_file():
        cover = _numbers(folder / COVER, 1)[:, 0]
        if len(cover) != len(boxes):
            raise StageError(f"{len(cover)} lines for {len(boxes)} boxes", where=folder / COVER)
    if min(boxes[0, 2:]) <= 0:
        raise StageError("the first box is empty", where=folder / TRUTH)
    return Track(folder.name, boxes, cover, _bound(folder))


def read_boxes(file: Path) -> Boxes:
    """(T, 4) of a file with a line `x,y,w,h` a frame."""
    return _numbers(file, 4)


def box_file(folder: Path, sequence: str, repetition: int = 1) -> Path:
    """Where the toolkit keeps a tracker's boxes."""
    return folder / sequence / f"{sequence}_{repetition:03d}.txt"


def _numbers(file: Path, columns: int) -> Boxes:
    if not file.is_file():
        raise StageError("no such file", where=file)
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split(",")]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            what = f"line {number} must be {columns} number{'s' * (columns > 1)}: {line.strip()[:60]}"
            raise StageError(what, where=file)
        rows.append(row)
    if not rows:
        raise StageError("the file is empty", where=file)
    return np.array(rows)


def _bound(folder: Path) -> tuple[int, int]:
    """(width, height) as the toolkit takes it, from meta_info.ini; without it, that of the first frame."""
    meta = folder / META
    found = RESOLUTION.search(meta.read_text(encoding="utf-8", errors="replace")) if meta.is_file() else None
    if found:
        return int(found[1]), int(found[2])
    frames = pictures_in(folder)
    if not frames:
        raise StageError(f"neither {META} with a resolution nor frames", where=folder)
    height, width = size_of(frames[0])
    return width, height
