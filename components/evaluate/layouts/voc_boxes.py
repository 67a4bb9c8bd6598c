"""Boxes of Pascal VOC's detection sets.

JPEGImages/<name>.jpg    Annotations/<name>.xml    ImageSets/Main/{train,val,trainval}.txt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from components.common.errors import StageError
from components.evaluate.layouts.davis import read_list

FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocBox:
    """One object; pixels are counted from 0 and the box's x1 and y1 are exclusive, unlike in the file."""

    name: str
    box: tuple[float, float, float, float]
    truncated: bool
    difficult: bool


@dataclass(frozen=True)
class VocPicture:
    name: str
    file: Path
    objects: list[VocBox]


def read_voc_boxes(root: Path, image_set: str) -> list[VocPicture]:
    """The pictures of one list, with their objects.

    Args:
        root: folder with JPEGImages (as inside VOCdevkit/VOC2007).
        image_set: list under ImageSets/Main, without `.txt`.

    Raises:
        StageError: a folder, list, picture or annotation is missing, or an annotation is not VOC's XML.
    """
    for folder in FOLDERS:
        if not (root / folder).is_dir():
            raise StageError(f"not in Pascal VOC layout, no {folder} folder", where=root)
    found = []
    for name in read_list(root / "ImageSets/Main" / f"{image_set}.txt"):
        image, notes = root / "JPEGImages" / f"{name}.jpg", root / "Annotations" / f"{name}.xml"
        for what, file in (("image", image), ("annotation", notes)):
            if not file.is_file():
                raise StageError(f"{name} is listed but has no {what}", where=file)
        found.append(VocPicture(name, image, read_objects(notes)))
    return found


def read_objects(file: Path) -> list[VocBox]:
    """The objects of one annotation; VOC's boxes count pixels from 1 and include the last one."""
    root = _parse(file)
    if root.tag != "annotation":
        raise StageError(f"not VOC's XML: its root is <{root.tag}>, not <annotation>", where=file)
    return [_object(entry, number, file) for number, entry in enumerate(root.findall("object"), start=1)]


def _object(entry: ElementTree.Element, number: int, file: Path) -> VocBox:
    texts = [entry.findtext(f"bndbox/{corner}", "") for corner in CORNERS]
    try:
        x0, y0, x1, y1 = (float(text) for text in texts)
    except ValueError:
        raise StageError(f"object {number} has no whole box, got {texts}", where=file) from None
    if not (0 <= x0 <= x1 < float("inf") and 0 <= y0 <= y1 < float("inf")):
        raise StageError(f"object {number} has an impossible box {texts}", where=file)
    flags = {flag: entry.findtext(flag, "0").strip() == "1" for flag in ("truncated", "difficult")}
    return VocBox(entry.findtext("name", "").strip(), (x0 - 1, y0 - 1, x1, y1), **flags)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type: entities that blow up or read files can be declared nowhere else."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which VOC's files never do")


def _parse(file: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 (no DTD gets past the builder)
    try:
        parser.feed(file.read_bytes())
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise StageError(f"not readable as XML, {error}", where=file) from None
    assert isinstance(root, ElementTree.Element)
    return root
