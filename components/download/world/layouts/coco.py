"""COCO 2017: images and `instances_{train,val}2017.json` with boxes, areas and polygons of the visible pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.download.world.classes import KINDS, Kind
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split
from components.download.world.pictures import write_image
from components.download.world.render import Frame
from components.download.world.truth import instances, polygons

CATEGORIES = {kind.name: kind.coco for kind in KINDS}
CLIP_IDS, STILL_IDS = 10**4, 10**11  # an image's id is made of its split, clip and still: 12 digits, unique


def write(clip: Clip, folder: Path) -> Facts:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    split = ("train", "val").index(clip.split) + 1
    for k, (_, frame) in enumerate(clip.frames(clip.stills())):
        number = split * STILL_IDS + clip.number * CLIP_IDS + k
        name = f"{number:012d}.jpg"
        write_image(folder / f"{clip.split}2017" / name, frame.image, clip.params.jpeg_quality)
        height, width = frame.ids.shape
        images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 1})
        annotations += _annotations(frame, number, clip.params)
    return {"split": clip.split, "frames": len(images), "images": images, "annotations": annotations}


def _annotations(frame: Frame, image: int, params: WorldParams) -> list[dict[str, Any]]:
    """One entry a toy, all but its id, which is given when all clips are there."""
    entries = []
    for found in instances(frame, params.min_object_px):
        x0, y0, x1, y1 = found.box
        piece = frame.ids[y0:y1, x0:x1] == found.seen.number
        entries.append(
            {
                "image_id": image,
                "category_id": CATEGORIES[found.seen.kind],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": found.area,
                "iscrowd": 0,
                "segmentation": polygons(piece, x0, y0),
            }
        )
    return entries


def _by_id(kind: Kind) -> int:
    return kind.coco


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    categories = [{"id": k.coco, "name": k.coco_name, "supercategory": k.coco_super} for k in sorted(KINDS, key=_by_id)]
    for split in ("train", "val"):
        own = of_split(facts, split)
        entries = [entry for fact in own for entry in fact["annotations"]]
        document = {
            "info": {"description": "Longtake sample world", "version": "1.0"},
            "licenses": [{"id": 1, "name": "Apache License 2.0", "url": ""}],
            "images": [image for fact in own for image in fact["images"]],
            "annotations": [{"id": k, **entry} for k, entry in enumerate(entries, start=1)],
            "categories": categories,
        }
        file = out / "annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document), encoding="utf-8")


WRITER = Writer(write, finish)
