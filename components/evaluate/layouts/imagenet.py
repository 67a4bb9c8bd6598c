"""Image classification benchmarks in ImageNet folder layout: `train/<class>/*.jpg`, `val/<class>/*.jpg` (or `test`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.common.config import nearest
from components.common.errors import StageError
from components.evaluate.images import folders_in, pictures_in

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Labelled:
    """Pictures and the class number of each."""

    files: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class Classification:
    """A benchmark: class names by number, the train pictures, the held-out ones and the name of their folder."""

    classes: list[str]
    train: Labelled
    held_out: Labelled
    held_out_name: str


def read_imagenet(root: Path) -> Classification:
    """Classes are the folders of `train` in order of name; raises StageError for a class without pictures."""
    name = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if name is None or not (root / "train").is_dir():
        missing = "train" if name else "val (or test)"
        raise StageError(f"not in ImageNet folder layout, no {missing} folder", where=root)
    classes = [folder.name for folder in folders_in(root / "train")]
    if len(classes) < 2:
        raise StageError(f"needs two classes or more, found {len(classes)}", where=root / "train")
    for folder in folders_in(root / name):
        if folder.name not in classes:
            what = f"class '{folder.name}' has no training pictures{nearest(folder.name, classes)}"
            raise StageError(what, where=folder)
    return Classification(classes, _read(root / "train", classes), _read(root / name, classes), name)


def _read(split: Path, classes: list[str]) -> Labelled:
    """Pictures of every class folder that is there; a class may be absent from the held-out split."""
    files, labels = [], []
    for number, name in enumerate(classes):
        folder = split / name
        found = pictures_in(folder) if folder.is_dir() else []
        if folder.is_dir() and not found:
            raise StageError(f"class '{name}' has no pictures", where=folder, do="add some or remove the folder")
        files += found
        labels += [number] * len(found)
    if not files:
        raise StageError("no pictures", where=split)
    return Labelled(files, labels)
