"""COCO's detection sets, of 2014 and of 2017.

annotations/instances_<split>.json    <split>/<file_name> (or images/<split>/<file_name>)

An annotation's `segmentation` is a list of polygons or a run-length code, whatever its `iscrowd` says: files made by
other tools mix them, and pycocotools takes both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError

FAR_PX = 100_000  # pycocotools walks along every edge: beyond it lies a slip, and all memory
Note = dict[str, Any]  # one annotation, as the file has it


@dataclass(frozen=True)
class CocoPicture:
    id: int
    file: Path
    height: int
    width: int


@dataclass(frozen=True)
class Coco:
    """One split.

    Attributes:
        pictures: in the file's order.
        objects: annotations by picture id, in the file's order; every picture has an entry.
        names: category names by their ids, in order of the ids.
    """

    pictures: list[CocoPicture]
    objects: dict[int, list[Note]]
    names: dict[int, str]

    @property
    def n_objects(self) -> int:
        return sum(map(len, self.objects.values()))


def read_coco(root: Path, split: str) -> Coco:
    """One split of the benchmark, e.g. `val2017`.

    Raises:
        StageError: the annotations or a picture is missing, or the annotations are not COCO's.
    """
    file = root / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        there = sorted(f.stem.removeprefix("instances_") for f in root.glob("annotations/instances_*.json"))
        do = f"there are: {', '.join(there)}" if there else None
        raise StageError(f"not in COCO layout, no annotations of {split}", where=file, do=do)
    folder = next((f for f in (root / split, root / "images" / split) if f.is_dir()), None)
    if folder is None:
        raise StageError(f"not in COCO layout, no folder of the pictures of {split}", where=root / split)
    data = read_instances(file, folder)
    for picture in data.pictures:
        if not picture.file.is_file():
            raise StageError("the annotations name a picture that is not there", where=picture.file)
    return data


def read_instances(file: Path, folder: Path = Path()) -> Coco:
    """The annotations of a file `instances_*.json`, checked; pictures are named below `folder`, not looked for."""
    document = read_json(file)
    if not isinstance(document, dict):
        raise StageError("not COCO's annotations: expected a mapping", where=file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise StageError(f"not COCO's annotations: no list '{key}'", where=file)
    names = dict(sorted((_get(c, "id", int, "a category", file), str(c.get("name"))) for c in document["categories"]))
    pictures = [_picture(entry, folder, file) for entry in document["images"]]
    objects: dict[int, list[Note]] = {picture.id: [] for picture in pictures}
    for what, n, unique in (
        ("categories", len(document["categories"]), len(names)),
        ("images", len(pictures), len(objects)),
    ):
        if n != unique:
            raise StageError(f"two {what} have the same id", where=file)
    data = Coco(pictures, objects, names)
    sizes = {picture.id: (picture.height, picture.width) for picture in pictures}
    for note in document["annotations"]:
        _check(note, data, sizes, file)
        objects[note["image_id"]].append(note)
    if not document["annotations"]:
        raise StageError("there is no annotation", where=file)
    return data


def read_json(file: Path) -> Any:
    """The document; StageError where there is none."""
    if not file.is_file():
        raise StageError("no such file", where=file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise StageError("not readable as JSON", where=file) from None


def check_box(box: Any, what: str, file: Path) -> None:
    """StageError unless it is four finite numbers x, y, width, height with a size that is not negative."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not numbers or not all(map(math.isfinite, box)) or box[2] < 0 or box[3] < 0:
        raise StageError(f"{what} has no box [x, y, width, height]: {json.dumps(box)[:60]}", where=file)


def check_segmentation(segmentation: Any, size: tuple[int, int], what: str, file: Path) -> None:
    """StageError unless it is a list of polygons, or a run-length code of a picture of this (height, width)."""
    if isinstance(segmentation, list) and segmentation:
        good = all(isinstance(polygon, list) and polygon and len(polygon) % 2 == 0 for polygon in segmentation)
        good = good and len(segmentation[0]) > 4  # pycocotools goes by the first one, and takes 4 numbers for a box
        good = good and all(type(v) in (int, float) and abs(v) <= FAR_PX for polygon in segmentation for v in polygon)
    else:
        good = isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys()
        good = good and isinstance(segmentation["counts"], str | list)
    if not good:
        raise StageError(f"the segmentation of {what} is neither polygons nor {{size, counts}}", where=file)
    if isinstance(segmentation, dict) and segmentation["size"] != list(size):
        said = json.dumps(segmentation["size"])
        raise StageError(f"the segmentation of {what} is of size {said}, its image {list(size)}", where=file)
    if isinstance(segmentation, dict) and not fits(segmentation["counts"], size[0] * size[1]):
        raise StageError(f"the segmentation of {what} has run lengths that do not fit its image", where=file)


def fits(counts: str | list[Any], pixels: int) -> bool:
    """Whether run lengths, compressed or not, are whole numbers >= 0 that add up to `pixels`.

    pycocotools does not look: comparing maps of different lengths never ends.
    """
    if isinstance(counts, list) and not all(type(run) is int and 0 <= run <= pixels for run in counts):
        return False
    runs = run_lengths(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == pixels


def run_lengths(text: str) -> NDArray[np.int64] | None:
    """COCO's compressed run lengths; None if they are none.

    A number is a few characters, each with 5 bits of it, lowest first; bit 5 is set in all but the last, whose bit 4 is
    the sign. From the fourth number on it is the difference to the run before the last.
    """
    codes = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    if not len(last) or codes.min() < 0 or codes.max() > 63 or last[-1] != len(codes) - 1:
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, first) - ((codes[last] >> 4 & 1) << 5 * lengths)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def check_ids(entry: Any, data: Coco, what: str, file: Path) -> None:
    """StageError unless an annotation or a detection belongs to an image and a category that there are."""
    if not isinstance(entry, dict):
        raise StageError(f"{what} is no mapping: {json.dumps(entry)[:60]}", where=file)
    for key, known in (("image_id", data.objects), ("category_id", data.names)):
        if type(entry.get(key)) is not int or entry[key] not in known:
            raise StageError(f"{what} has {key} {json.dumps(entry.get(key))[:60]}, which there is not", where=file)


def _picture(entry: Any, folder: Path, file: Path) -> CocoPicture:
    number = _get(entry, "id", int, "an image", file)
    name, height, width = (_get(entry, key, kind, f"image {number}", file) for key, kind in _PICTURE.items())
    if min(height, width) < 1:
        raise StageError(f"image {number} is {width}x{height} pixels", where=file)
    return CocoPicture(number, folder / name, height, width)


_PICTURE: dict[str, type] = {"file_name": str, "height": int, "width": int}


def _get(entry: Any, key: str, kind: type, what: str, file: Path) -> Any:
    if not isinstance(entry, dict) or type(entry.get(key)) is not kind:
        raise StageError(f"{what} has no '{key}'", where=file)
    return entry[key]


def _check(note: Any, data: Coco, sizes: Mapping[int, tuple[int, int]], file: Path) -> None:
    what = f"annotation {note.get('id') if isinstance(note, dict) else ''}".strip()
    check_ids(note, data, what, file)
    check_box(note.get("bbox"), what, file)
    if note.get("iscrowd", 0) not in (0, 1):
        raise StageError(f"{what} has iscrowd {json.dumps(note['iscrowd'])[:60]}, expected 0 or 1", where=file)
    if type(note.get("area", 0)) not in (int, float) or not math.isfinite(note.get("area", 0)):
        raise StageError(f"{what} has area {json.dumps(note['area'])[:60]}, expected a number", where=file)
    if note.get("segmentation") == []:  # how tools write an object that has a box and no mask
        del note["segmentation"]
    if "segmentation" in note:
        check_segmentation(note["segmentation"], sizes[note["image_id"]], what, file)
