"""A small benchmark in COCO's layout: coloured rectangles, polygons and run-length codes, a crowd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from tests.evaluate.small import COLOURS, textured, write_image

CATEGORIES = [{"id": 3, "name": "red"}, {"id": 1, "name": "blue"}]


def coco(root: Path, n_train: int = 6, n_val: int = 3) -> Path:
    """Two rectangles in each picture; the second's mask is a run-length code, every third picture has a crowd too."""
    rng = np.random.default_rng(4)
    for split, n in (("train2017", n_train), ("val2017", n_val)):
        images, notes = [], []
        for i in range(n):
            name, height, width = f"{split}_{i}.jpg", 44, 58
            pixels = textured(rng, COLOURS[5], height, width)
            for k in range(2):
                x, y = int(rng.integers(1, 10) + 26 * k), int(rng.integers(2, 18))
                pixels[y : y + 20, x : x + 18] = textured(rng, COLOURS[k], 20, 18)
                notes.append(note(len(notes), i, CATEGORIES[k]["id"], (x, y, 18, 20), (height, width), polygon=k == 0))
            if i % 3 == 2:
                crowd = note(len(notes), i, 3, (0, 0, width, 8), (height, width), polygon=False)
                notes.append({**crowd, "iscrowd": 1})
            write_image(root / split / name, pixels)
            images.append({"id": i, "file_name": name, "height": height, "width": width})
        write(root, split, {"images": images, "annotations": notes, "categories": CATEGORIES})
    return root


def note(
    number: int, image: int, category: Any, box: tuple[int, int, int, int], size: tuple[int, int], polygon: bool
) -> dict[str, Any]:
    """An annotation of a rectangle; ids count from 0, which pycocotools alone would take amiss."""
    x, y, w, h = box
    pixels = np.zeros(size, np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    code = rle.encode(pixels)
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": 0,
        "segmentation": outline if polygon else {"size": list(size), "counts": code["counts"].decode()},
    }


def write(root: Path, split: str, document: dict[str, Any]) -> Path:
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def as_results(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations that are no crowds as perfect detections."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    found = []
    for entry in document["annotations"]:
        if entry.get("iscrowd"):
            continue
        code = entry["segmentation"]
        if isinstance(code, list):
            code = rle.merge(rle.frPyObjects(code, *sizes[entry["image_id"]]))
        counts = code["counts"] if isinstance(code["counts"], str) else code["counts"].decode()
        found.append(
            {
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "score": 0.9,
                "bbox": entry["bbox"],
                "segmentation": {"size": list(code["size"]), "counts": counts},
            }
        )
    return found
