"""Video object segmentation benchmarks in DAVIS layout (also YouTube-VOS and MOSE trees, which lack the `480p` level).

JPEGImages/480p/<sequence>/00000.jpg    Annotations/480p/<sequence>/00000.png    ImageSets/2017/val.txt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.common.errors import StageError
from components.evaluate.images import folders_in, pictures_in, size_of

FRAMES, MASKS, SETS = "JPEGImages", "Annotations", "ImageSets"
RESOLUTION = "480p"


@dataclass(frozen=True)
class Sequence:
    """One video: its frames in order, and the masks by frame number (the first frame always has one)."""

    name: str
    frames: tuple[Path, ...]
    masks: dict[int, Path]
    height: int
    width: int


def read_davis(root: Path, image_set: str = "2017/val", sparse: bool = False) -> list[Sequence]:
    """The sequences of a benchmark.

    Args:
        root: folder with JPEGImages and Annotations.
        image_set: list under ImageSets, without `.txt`; if the benchmark has no ImageSets, every sequence is taken.
        sparse: masks may be missing, except that of the first frame.

    Raises:
        StageError: something is missing, or frames and masks disagree in number, name or size.
    """
    frames, masks = sequence_root(root / FRAMES), sequence_root(root / MASKS)
    return [read_sequence(name, frames / name, masks / name, sparse) for name in sequence_names(root, masks, image_set)]


def sequence_root(folder: Path) -> Path:
    """The folder that holds one folder per sequence: `folder/480p`, another resolution if it is the only one."""
    if not folder.is_dir():
        raise StageError(f"not in DAVIS layout, no {folder.name} folder", where=folder.parent)
    inner = folders_in(folder)
    if not inner:
        raise StageError("no sequences", where=folder)
    if (folder / RESOLUTION).is_dir():
        return folder / RESOLUTION
    if len(inner) == 1 and not pictures_in(inner[0]) and folders_in(inner[0]):
        return inner[0]
    return folder


def sequence_names(root: Path, masks: Path, image_set: str) -> list[str]:
    """Names listed in ImageSets/<image_set>.txt, else every folder of `masks`."""
    file = root / SETS / f"{image_set}.txt"
    if not (root / SETS).is_dir():
        return [folder.name for folder in folders_in(masks)]
    return read_list(file)


def read_list(file: Path) -> list[str]:
    """The first word of each line; StageError if the file is missing, empty or names something twice."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        there = sorted(f.stem for f in file.parent.glob("*.txt")) if file.parent.is_dir() else []
        do = f"there are: {', '.join(there)}" if there else None
        raise StageError("no such list", where=file, do=do) from None
    except UnicodeDecodeError:
        raise StageError("the list is not text", where=file) from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise StageError("the list is empty", where=file)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StageError(f"the list names '{twice}' twice", where=file)
    return names


def read_sequence(name: str, frame_dir: Path, mask_dir: Path, sparse: bool) -> Sequence:
    """One sequence: its frames, and the masks of the same names; all of them of one size."""
    for folder in (frame_dir, mask_dir):
        if not folder.is_dir():
            raise StageError(f"sequence {name} is listed but has no folder", where=folder)
    frames, masks = pictures_in(frame_dir), pictures_in(mask_dir)
    if not frames:
        raise StageError(f"sequence {name} has no frames", where=frame_dir)
    numbers = {file.stem: number for number, file in enumerate(frames)}
    strays = [file.name for file in masks if file.stem not in numbers]
    if strays or (len(masks) != len(frames) and not sparse):
        what = f"masks and frames disagree: sequence {name} has {len(frames)} frames and {len(masks)} masks"
        what += f", {strays[0]} has no frame" if strays else ""
        raise StageError(what, where=mask_dir, do=None if strays else "set `sparse: true` if this is meant")
    if frames[0].stem not in {file.stem for file in masks}:
        raise StageError(f"the first frame of sequence {name} has no mask", where=mask_dir)
    height, width = _one_size(name, frames, masks)
    return Sequence(name, tuple(frames), {numbers[m.stem]: m for m in masks}, height, width)


def _one_size(name: str, frames: list[Path], masks: list[Path]) -> tuple[int, int]:
    height, width = size_of(frames[0])
    for file in [*frames, *masks]:
        h, w = size_of(file)
        if (h, w) != (height, width):
            what = f"sizes disagree in sequence {name}: {file.name} is {w}x{h}, its first frame {width}x{height}"
            raise StageError(what, where=file)
    return height, width
