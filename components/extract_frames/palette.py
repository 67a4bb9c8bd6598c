"""Objects from palette masks beside frames, as DAVIS, YouTube-VOS, MOSE and VISOR's export have them.

    JPEGImages/480p/bear/00000.jpg    Annotations/480p/bear/00000.png    meta.json

A pixel is 0 for background, the number of an object, or 255 for void. Which mask is which frame's is told by their
names in frame folders, and by the frame's number where the video is a file. The layout may lie at any depth, and
several times (train, valid).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import StageError
from components.extract_frames.config import LabelParams
from components.extract_frames.find import Source
from components.extract_frames.objects import ASPECT_TOLERANCE, LABEL_MODES, VideoObjects
from components.extract_frames.video import Extracted

OBJECT = "object"  # the category of what nobody has named
VALUES = 256


@dataclass(frozen=True)
class Names:
    """What a meta.json says: the category of each object of each video, and each category's number.

    A number is the rank of the category in the sorted set of all categories of the file, plus one (TimeT's rule).
    """

    objects: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each category, from 1."""
        found = sorted({name for objects in self.objects.values() for name in objects.values()})
        return {name: number for number, name in enumerate(found, start=1)}

    def table(self, video: str, void: int | None, by_category: bool) -> NDArray[np.uint8]:
        """uint8 (256,): what becomes of each value of a mask. Unknown objects keep no label where categories count."""
        values = np.arange(VALUES, dtype=np.uint8)
        if by_category:
            values[:] = 0
            for number, name in self.objects.get(video, {}).items():
                values[number] = self.numbers[name]
        if void is not None:
            values[void] = 0
        return values

    def named(self, video: str, value: int, by_category: bool) -> str:
        """Category of a value of `table`."""
        if by_category:
            return next(name for name, number in self.numbers.items() if number == value)
        return self.objects.get(video, {}).get(value, OBJECT)


@dataclass(frozen=True)
class PaletteMasks:
    """The masks of a corpus: folder and names of each video that has some, by the video's key."""

    folders: Mapping[str, Path]
    names: Mapping[str, Names]
    sources: Mapping[str, Source]
    params: LabelParams

    @property
    def by_category(self) -> bool:
        """Whether a track is all objects of a category."""
        return self.params.values == "category"

    def label_maps(self, key: str) -> dict[int, Path]:
        """Masks by the number of their frame."""
        return self._maps(key)[0]

    def strays(self, key: str) -> list[str]:
        """Masks of no frame."""
        return self._maps(key)[1]

    def table(self, key: str) -> NDArray[np.uint8]:
        """uint8 (256,): what becomes of each value of this video's masks."""
        return self.names[key].table(_video(key), self.params.void, self.by_category)

    def _maps(self, key: str) -> tuple[dict[int, Path], list[str]]:
        folder = self.folders.get(key)
        if folder is None:
            return {}, []
        files = sorted(folder.glob("*.png"))
        number = _frame_numbers(self.sources[key])
        found = {at: file for file in files if (at := number(file.stem)) is not None}
        return found, [file.name for file in files if number(file.stem) is None]


def _frame_numbers(source: Source) -> Any:
    """name of a frame -> its number, None for a name of no frame."""
    if source.pattern is None:
        return lambda stem: int(stem) if stem.isdecimal() else None
    names = sorted((file.name for file in source.path.glob(source.pattern)), key=os.fsencode)
    return {Path(name).stem: number for number, name in enumerate(names)}.get


def find_masks(corpus: Path, params: LabelParams, sources: Sequence[Source]) -> PaletteMasks:
    """The mask folder and the categories of each video.

    Raises:
        StageError: no folder of that name holds masks of any video, or the file of categories does not parse.
    """
    roots = sorted((folder for folder in corpus.rglob(params.folder) if folder.is_dir()), key=lambda f: -len(f.parts))
    folders = {source.key: folder for source in sources if (folder := _mask_folder(corpus, roots, source.key))}
    if not folders:
        do = "masks lie in folders named as their videos; or set `labels` of the corpus to null"
        raise StageError(f"no folder '{params.folder}' has masks of these videos", where=corpus, do=do)
    names = {key: _names_near(corpus, folder, params.categories) for key, folder in folders.items()}
    return PaletteMasks(folders, names, {source.key: source for source in sources}, params)


def _mask_folder(corpus: Path, roots: list[Path], key: str) -> Path | None:
    """`<above>/Annotations/480p/bear` for the key `<above>/JPEGImages/480p/bear`; a level may be missing."""
    parts = tuple(key.split("/"))
    for root in roots:
        above = root.parent.relative_to(corpus).parts
        if parts[: len(above)] == above:
            rest = parts[len(above) :]
            found = (root.joinpath(*rest[start:]) for start in range(min(1, len(rest) - 1), len(rest)))
            if place := next((folder for folder in found if folder.is_dir()), None):
                return place
    return None


@functools.lru_cache(maxsize=64)
def _read_names(file: Path) -> Names:
    try:
        videos = json.loads(file.read_bytes())["videos"]
        objects = {
            video: {int(number): str(told["category"]) for number, told in said["objects"].items()}
            for video, said in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        do = "repair it, or set `labels.categories` to null"
        raise StageError(f"not YouTube-VOS's list of categories, {error}", where=file, do=do) from None
    bad = next((n for told in objects.values() for n in told if not 0 < n < VALUES), None)
    if bad is not None:
        raise StageError(f"object {bad} cannot be the value of a mask", where=file)
    return Names(objects)


def _names_near(corpus: Path, folder: Path, name: str | None) -> Names:
    """The names of the nearest file beside or above a mask folder."""
    while name is not None and folder != corpus:
        folder = folder.parent
        if (folder / name).is_file():
            return _read_names(folder / name)
    return Names()


def _video(key: str) -> str:
    return key.rpartition("/")[2]


def objects_of(extracted: Extracted, masks: PaletteMasks) -> VideoObjects:
    """The objects of a video's stored frames, boxed by the pixels of their masks; none where a mask cannot be used."""
    key, maps = extracted.video.key, masks.label_maps(extracted.video.key)
    rows: list[tuple[float, ...]] = []
    categories: dict[int, str] = {}
    strays = masks.strays(key)
    note = f"{len(strays)} masks belong to no frame, such as {strays[0]}" if strays else ""
    if not maps:
        return VideoObjects(note=note)
    table = masks.table(key)
    try:
        for at, number in enumerate(extracted.frames["frame"].tolist()):
            if number in maps:
                labels = table[_read_mask(maps[number], extracted)]
                rows += [(at, number, value - 1, *box) for value, box in _boxes(labels)]
    except ValueError as error:
        return VideoObjects(trouble=str(error))
    found = np.array(rows, np.float64).reshape(-1, 7)
    for track in np.unique(found[:, 2]).astype(int).tolist():
        categories[track] = masks.names[key].named(_video(key), track + 1, masks.by_category)
    at, annotated, track = found[:, :3].astype(np.int64).T
    n_bare = sum(number not in maps for number in extracted.frames["frame"].tolist())
    return VideoObjects(at, annotated, track, found[:, 3:], categories, note=note, n_bare=n_bare)


def _read_mask(file: Path, extracted: Extracted) -> NDArray[np.uint8]:
    """(H, W), as it is stored: of a palette picture the indices; raises ValueError for what is no mask of it."""
    try:
        with Image.open(file) as image:
            if image.mode not in LABEL_MODES[:2]:
                raise ValueError(f"{file.name} is a picture of mode {image.mode}, no mask")
            mask = np.asarray(image)
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read, {error}") from None
    width, height = extracted.video.width, extracted.video.height
    if width and abs(mask.shape[1] * height / (mask.shape[0] * width) - 1) > ASPECT_TOLERANCE:
        shape = f"{mask.shape[1]}x{mask.shape[0]}"
        raise ValueError(f"{file.name} is of a picture of {shape}, the frames are {width}x{height}")
    return mask


def _boxes(labels: NDArray[np.uint8]) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(value, x0, y0, x1, y1 as shares of the picture) of each value above 0, rising."""
    height, width = labels.shape
    found = []
    for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=VALUES)).tolist():
        if value:
            here = labels == value
            rows, columns = (np.flatnonzero(here.any(axis=axis)) for axis in (1, 0))
            box = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
            found.append((value, (float(box[0]), float(box[1]), float(box[2]), float(box[3]))))
    return found
