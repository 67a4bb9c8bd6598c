"""PASCAL VOC 2012: class and object masks with a 255 band at contours, boxes in XML, lists."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from components.download.world.classes import BY_NAME
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split, write_lines
from components.download.world.pictures import voc_palette, write_image, write_indexed
from components.download.world.render import Frame
from components.download.world.truth import Instance, instances, relabel, with_void

OCCLUDED = 0.95  # VOC marks an object as occluded when more than 5 % of it is hidden


def write(clip: Clip, folder: Path) -> Facts:
    names = []
    for number, frame in clip.frames(clip.stills()):
        name = f"{clip.name}_{number:06d}"
        write_image(folder / "JPEGImages" / f"{name}.jpg", frame.image, clip.params.jpeg_quality)
        found = instances(frame, clip.params.min_object_px)
        _write_masks(frame, found, folder, name, clip.params.void_px)
        file = folder / "Annotations" / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(annotation(name, frame, found), encoding="utf-8")
        names.append(name)
    return {"split": clip.split, "frames": len(names), "names": names}


def _write_masks(frame: Frame, found: list[Instance], folder: Path, name: str, void_px: int) -> None:
    """Value k of SegmentationObject is the k-th object of the XML; toys too small for a box count on after them."""
    boxed = [instance.seen.number for instance in found]
    small = sorted({seen.number for seen in frame.seen} - set(boxed))
    objects = relabel(frame.ids, {number: k for k, number in enumerate(boxed + small, start=1)})
    classes = relabel(frame.ids, {seen.number: BY_NAME[seen.kind].voc for seen in frame.seen})
    for kind, labels in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        write_indexed(folder / kind / f"{name}.png", with_void(labels, frame.ids, void_px), voc_palette())


def annotation(name: str, frame: Frame, found: list[Instance]) -> str:
    """VOC's XML; its boxes count pixels from 1 and include the last one."""
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2012", filename=f"{name}.jpg")
    height, width = frame.ids.shape
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=1)
    for instance in found:
        entry = ElementTree.SubElement(root, "object")
        cut = int(instance.touches_edge(frame.ids.shape))
        hidden = int(instance.visible < OCCLUDED)
        _add(entry, name=instance.seen.kind, pose="Unspecified", truncated=cut, occluded=hidden, difficult=0)
        x0, y0, x1, y1 = instance.box
        _add(ElementTree.SubElement(entry, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **values: str | int) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    lists = {split: [name for fact in of_split(facts, split) for name in fact["names"]] for split in ("train", "val")}
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    for split, names in lists.items():
        for folder in ("Main", "Segmentation"):  # here every picture has both, boxes and masks
            write_lines(out / "ImageSets" / folder / f"{split}.txt", names)


WRITER = Writer(write, finish)
