"""What a finished run leaves beside its encoder: learning curves, last figures, pictures. Equal runs, equal bytes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.common.outputs import atomic_file, write_text

METRICS, CURVES, PICTURES = "metrics.json", "curves.csv", "pictures"
GIF_FRAME_MS = 250
Row = Mapping[str, float]


def write_curves(file: Path, curves: Sequence[Row]) -> None:
    """One line a report, one column a figure; floats as Python prints them, so none is rounded."""
    names = list(dict.fromkeys(name for row in curves for name in row)) or ["step"]
    with atomic_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curves)


def write_metrics(file: Path, figures: Mapping[str, float]) -> None:
    """Flat JSON, keys sorted; figures that are not finite are left out, since JSON has no name for them."""
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    write_text(file, json.dumps(finite, indent=2, sort_keys=True) + "\n")


def write_pictures(folder: Path, pictures: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> list[Path]:
    """A PNG for a single picture, a GIF for several; arrays are uint8 RGB (H, W, 3)."""
    files = []
    for name, frames in sorted(pictures.items()):
        folder.mkdir(exist_ok=True)
        first, *rest = [Image.fromarray(frame) for frame in frames]
        file = folder / f"{name}.{'gif' if rest else 'png'}"
        if rest:
            first.save(file, save_all=True, append_images=rest, duration=GIF_FRAME_MS, loop=0)
        else:
            first.save(file)
        files.append(file)
    return files
