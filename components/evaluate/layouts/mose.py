"""MOSE: {train,valid}/{JPEGImages,Annotations}/<video>/00000.jpg, .png; no categories, so object ids are labels."""

from __future__ import annotations

from pathlib import Path

from components.evaluate.layouts.video_masks import MaskedVideo, read_trees, split_root


def read_mose(root: Path, split: str = "train", wanted: list[str] | None = None) -> list[MaskedVideo]:
    """Videos with raw object ids; of the official valid split only first frames have masks."""
    return read_trees(split_root(root, split), wanted)
