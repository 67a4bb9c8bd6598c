"""A small benchmark of boxes in Pascal VOC's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.evaluate.small import COLOURS, textured, write_image, write_list

XML = "<annotation><size/>{}</annotation>"
OBJECT = (
    "<object><name>cat</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def voc_boxes(root: Path, n: int = 5) -> Path:
    """A square on a plain ground in each picture, sizes that are no multiple of the patch."""
    rng = np.random.default_rng(3)
    for i in range(n):
        pixels = textured(rng, COLOURS[5], 45, 61)
        x, y = (int(v) for v in rng.integers(4, 20, 2))
        pixels[y : y + 24, x : x + 24] = textured(rng, COLOURS[i % 3], 24, 24)
        write_image(root / "JPEGImages" / f"p{i}.jpg", pixels)
        file = root / "Annotations" / f"p{i}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(XML.format(OBJECT.format(i % 2, x + 1, y + 1, x + 24, y + 24) if i != 3 else ""))
    write_list(root / "ImageSets/Main/trainval.txt", [f"p{i}" for i in range(n)])
    return root
