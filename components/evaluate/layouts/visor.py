"""VISOR (EPIC-KITCHENS): polygons as it unpacks, or JPEGImages/[<participant>/]<video>/ with Annotations likewise.

The official exporter writes DAVIS' layout with lists ImageSets/2022/{train,val}.txt. Trees unpacked from one archive a
participant have a level more and no lists. Object ids are labels. Where there is no JPEGImages, the polygons of
`annotations/<split>` are drawn (see visor_polygons.py).
"""

from __future__ import annotations

from pathlib import Path

from components.evaluate.layouts.davis import FRAMES
from components.evaluate.layouts.video_masks import MaskedVideo, listed, read_trees, split_root
from components.evaluate.layouts.visor_polygons import read_polygons

UNPACKED = "GroundTruth-SparseAnnotations"  # the folder of the download


def read_visor(root: Path, split: str = "2022/val", wanted: list[str] | None = None) -> list[MaskedVideo]:
    """Videos with raw object ids; `2022/val` is `val` where polygons are read."""
    for place in (root, root / UNPACKED):
        if (place / "annotations").is_dir() and not (place / FRAMES).is_dir():
            return read_polygons(place, split.rpartition("/")[2], wanted)
    place = split_root(root, split)
    return read_trees(place, wanted or listed(place, split))
