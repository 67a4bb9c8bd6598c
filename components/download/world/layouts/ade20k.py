"""ADE20K as scene parsing uses it: 1..150 classes, 0 = other, toys and ground alike; objectInfo150.txt's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.download.world.classes import ADE_NAMES, ADE_STUFF, BY_NAME, GROUNDS
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split
from components.download.world.pictures import write_grey, write_image
from components.download.world.render import Frame
from components.download.world.truth import relabel

FOLDERS = {"train": "training", "val": "validation"}
SHORT = {"train": "train", "val": "val"}
_GROUND = np.array([0, *GROUNDS.values()], np.uint8)


def write(clip: Clip, folder: Path) -> Facts:
    pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    stills = clip.stills()
    for k, (_, frame) in enumerate(clip.frames(stills), start=1):
        # ADE20K numbers its images from 1, eight digits
        name = f"ADE_{SHORT[clip.split]}_{clip.number * clip.params.stills_per_clip + k:08d}"
        write_image(folder / "images" / FOLDERS[clip.split] / f"{name}.jpg", frame.image, clip.params.jpeg_quality)
        labels = semantic(frame)
        write_grey(folder / "annotations" / FOLDERS[clip.split] / f"{name}.png", labels)
        counts = np.bincount(labels.ravel(), minlength=256)
        pixels, images = pixels + counts, images + (counts > 0)
    return {"split": clip.split, "frames": len(stills), "pixels": pixels.tolist(), "images": images.tolist()}


def semantic(frame: Frame) -> NDArray[np.uint8]:
    """(h, w) ADE20K ids: the toy's class, elsewhere the ground's."""
    toys = relabel(frame.ids, {seen.number: BY_NAME[seen.kind].ade for seen in frame.seen})
    return np.where(frame.ids > 0, toys, _GROUND[frame.ground]).astype(np.uint8)


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    """The table of the classes that occur here: id, share of pixels, images in train and val, stuff or not, name."""
    pixels = np.sum([fact["pixels"] for fact in facts], axis=0)
    seen = {s: np.sum([np.zeros(256), *(f["images"] for f in of_split(facts, s))], axis=0) for s in FOLDERS}
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    for index, name in ADE_NAMES.items():
        train, val = (int(seen[split][index]) for split in ("train", "val"))
        rows.append(f"{index}\t{pixels[index] / pixels.sum():.4f}\t{train}\t{val}\t{int(index in ADE_STUFF)}\t{name}")
    (out / "objectInfo150.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


WRITER = Writer(write, finish)
