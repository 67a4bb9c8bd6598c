"""Cluster maps on disk: PNGs whose pixel value is the cluster's number, 16 bits where there are more than 256."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import StageError
from components.common.outputs import remove, stage_path
from components.evaluate.images import INDEXED, WIDE, open_image, write_index
from components.evaluate.layouts.davis import read_list


def write_clusters(file: Path, clusters: NDArray[Any]) -> None:
    """An (H, W) map of numbers 0..65535."""
    if int(clusters.max(initial=0)) < 256:
        write_index(file, clusters.astype(np.uint8))
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(clusters.astype(np.uint16)).save(file, format="PNG")


def read_clusters(file: Path) -> NDArray[np.int64]:
    """What `write_clusters` wrote, or any label map; StageError if the picture has colours instead of numbers."""
    with open_image(file) as image:
        if image.mode not in INDEXED | WIDE:
            raise StageError(f"a cluster map must be an indexed or grey picture, this one is {image.mode}", where=file)
        try:
            return np.array(image).astype(np.int64)
        except (OSError, SyntaxError) as error:
            raise StageError(f"picture not readable, {' '.join(str(error).split())}", where=file) from None


def write_folder(folder: Path, maps: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """One PNG a name; the folder is whole once it is there."""
    partial = stage_path(folder)
    remove(partial)
    for name, clusters in maps:
        write_clusters(partial / f"{name}.png", clusters)
    partial.rename(folder)


def maps_in(folder: Path, names: Path | None = None) -> dict[str, Path]:
    """Stem -> file of a folder's PNGs, all or those that a list names.

    Raises:
        StageError: there is none, or one of the list is missing.
    """
    found = sorted(folder.glob("[!.]*.png")) if folder.is_dir() else []
    files = {file.stem: file for file in found}
    if not files:
        raise StageError("no label or cluster maps (*.png)", where=folder)
    if names is None:
        return files
    listed = read_list(names)
    lost = [name for name in listed if name not in files]
    if lost:
        raise StageError(f"{len(lost)} of {len(listed)} listed pictures have no map, first {lost[0]}", where=folder)
    return {name: files[name] for name in listed}


def add_list(parser: argparse.ArgumentParser) -> None:
    """The option `--set` of a `score` command."""
    what = "list of the pictures that must be there, one name a line; default: all that are predicted"
    parser.add_argument("--set", type=Path, metavar="LIST", help=what)


def square_side(clusters: NDArray[Any], file: Path) -> int:
    """Side of a square map, the grid on which it is scored."""
    if clusters.ndim != 2 or clusters.shape[0] != clusters.shape[1]:
        raise StageError(
            f"a cluster map must be square, this one is {clusters.shape[1]}x{clusters.shape[0]}", where=file
        )
    return int(clusters.shape[0])
