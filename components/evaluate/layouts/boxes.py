"""Pictures with the boxes of what they show, from VOC's or COCO's layout, for tasks that ask for boxes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.common.errors import StageError
from components.evaluate.layouts.coco import read_coco
from components.evaluate.layouts.davis import read_list
from components.evaluate.layouts.voc_boxes import read_voc_boxes

Layout = Literal["voc", "coco"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """A picture and its objects' boxes: x0, y0, x1, y1 in pixels from 0, x1 and y1 exclusive."""

    name: str
    file: Path
    boxes: list[Box]


def read_pictures(
    root: Path, layout: Layout, image_set: str, image_list: str | None, round_boxes: bool, drop_hard: bool
) -> list[Picture]:
    """The pictures of a set.

    Args:
        root: the benchmark.
        layout: whose layout it is.
        image_set: VOC's list, or COCO's split.
        image_list: COCO: a list below `root` with a picture's file name in each line; folders before it are ignored.
        round_boxes: COCO: to whole pixels; VOC's are whole.
        drop_hard: VOC: without difficult and truncated objects.

    Raises:
        StageError: the benchmark is not in that layout, or a listed picture is not in it.
    """
    if layout == "voc":
        return [
            Picture(p.name, p.file, [o.box for o in p.objects if not (drop_hard and (o.difficult or o.truncated))])
            for p in read_voc_boxes(root, image_set)
        ]
    data = read_coco(root, image_set)
    found = {}
    for picture in data.pictures:
        entries = [note for note in data.objects[picture.id] if not note.get("iscrowd")]
        corners = [_corners(note["bbox"], round_boxes) for note in entries]
        found[picture.file.name] = Picture(picture.file.name, picture.file, corners)
    return list(found.values()) if image_list is None else _listed(found, root / image_list)


def _listed(found: dict[str, Picture], file: Path) -> list[Picture]:
    names = [Path(line).name for line in read_list(file)]
    strays = [name for name in names if name not in found]
    if strays:
        raise StageError(f"the list names {strays[0]}, which the annotations do not know", where=file)
    return [found[name] for name in names]


def _corners(box: list[float], rounded: bool) -> Box:
    x, y, width, height = box
    corners = (x, y, x + width, y + height)
    x0, y0, x1, y1 = (round(value) for value in corners) if rounded else corners
    return x0, y0, x1, y1
