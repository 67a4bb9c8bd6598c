"""VISOR (EPIC-KITCHENS): JPEGImages/[480p/]<video>/ or JPEGImages/<participant>/<video>/, Annotations likewise.

The official exporter writes DAVIS' layout with lists ImageSets/2022/{train,val}.txt. Trees unpacked from one archive a
participant have a level more and no lists. Object ids are labels.
"""

from __future__ import annotations

from pathlib import Path

from components.evaluate.layouts.video_masks import MaskedVideo, listed, read_trees, split_root


def read_visor(root: Path, split: str = "2022/val", wanted: list[str] | None = None) -> list[MaskedVideo]:
    """Videos with raw object ids."""
    place = split_root(root, split)
    return read_trees(place, wanted or listed(place, split))
