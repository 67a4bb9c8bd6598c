"""Scene parsing benchmarks in ADE20K's layout (SceneParse150, MIT Scene Parsing Challenge 2016).

images/{training,validation}/<name>.jpg    annotations/{training,validation}/<name>.png    objectInfo150.txt

A label map counts classes from 1; 0 is "other" and is left out of loss and score. A folder with one split only may hold
the files directly in images/ and annotations/, named ADE_train_* or ADE_val_* as in the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.images import pictures_in, read_index, size_of

VOID = 255
N_CLASSES = 150
RELEASE = "ADEChallengeData2016"  # the archive's own top folder
TABLE = "objectInfo150.txt"
SPLITS = {"training": "ADE_train_", "validation": "ADE_val_"}


@dataclass(frozen=True)
class Scenes:
    """One split: a label map for each picture, by name."""

    names: list[str]
    images: list[Path]
    masks: list[Path]


def read_ade20k(root: Path, split: str) -> Scenes:
    """One split of the benchmark.

    Args:
        root: folder with images/ and annotations/, or the one that holds the release's ADEChallengeData2016.
        split: `training` or `validation`.

    Raises:
        StageError: a folder, picture or label map is missing, or a map's size is not its picture's.
    """
    root = root / RELEASE if (root / RELEASE).is_dir() else root
    images, masks = (_files(root / folder, split) for folder in ("images", "annotations"))
    if not images:
        raise StageError(f"no pictures of the split '{split}'", where=root / "images")
    lost = sorted(set(images) - set(masks))
    if lost:
        raise StageError(f"{len(lost)} pictures of '{split}' have no label map, first {lost[0]}", where=root)
    stray = sorted(set(masks) - set(images))
    if stray:
        raise StageError(f"{len(stray)} label maps of '{split}' have no picture, first {stray[0]}", where=root)
    names = sorted(images)
    for name in names:
        _check_sizes(name, images[name], masks[name])
    return Scenes(names, [images[n] for n in names], [masks[n] for n in names])


def class_names(root: Path, n_classes: int = N_CLASSES) -> list[str]:
    """Names of the classes 1..n by the benchmark's own table, the number where the table is absent or lacks one."""
    names = [str(number) for number in range(1, n_classes + 1)]
    file = next((f for f in (root / TABLE, root / RELEASE / TABLE) if f.is_file()), None)
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if file else []:
        fields = line.split("\t")
        if fields[0].strip().isdigit() and 1 <= int(fields[0]) <= n_classes:
            names[int(fields[0]) - 1] = fields[-1].split(",")[0].strip() or fields[0]
    return names


def read_scene(file: Path, n_classes: int = N_CLASSES) -> NDArray[np.uint8]:
    """A label map (H, W) as the network counts: class k of the file is k - 1, "other" (0) is void (255).

    Raises:
        StageError: the map is unreadable or holds a label beyond the classes.
    """
    labels = read_index(file)
    if labels.max() > n_classes:
        raise StageError(f"label {labels.max()} in a benchmark of {n_classes} classes (1..{n_classes})", where=file)
    return np.where(labels == 0, VOID, labels - 1).astype(np.uint8)


def _files(folder: Path, split: str) -> dict[str, Path]:
    """Files of a split by name: its own folder, or those of the release's names lying directly in `folder`."""
    if not folder.is_dir():
        raise StageError(f"not in ADE20K layout, no {folder.name} folder", where=folder.parent)
    if (folder / split).is_dir():
        return {file.stem: file for file in pictures_in(folder / split)}
    prefix = SPLITS.get(split, f"{split}_")
    return {file.stem: file for file in pictures_in(folder) if file.stem.startswith(prefix)}


def _check_sizes(name: str, image: Path, mask: Path) -> None:
    (h, w), (mask_h, mask_w) = size_of(image), size_of(mask)
    if (h, w) != (mask_h, mask_w):
        raise StageError(f"sizes disagree: image {name} is {w}x{h}, its label map {mask_w}x{mask_h}", where=mask)
