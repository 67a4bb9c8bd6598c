"""Tracks of objects in VidOR's JSON: which file belongs to which video, and what it says.

One JSON a video (Shang et al. 2019; https://xdshang.github.io/docs/vidor.html), with a list of boxes for each of its
frames. `fps` says how far these lie apart, so that a file may also tell of one frame a second.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from components.common.errors import StageError

SUFFIX = ".json"
VIDEO_FOLDERS = ("video/", "videos/")  # VidOR's key `video/0000/1` is told of in `annotation/training/0000/1.json`


class Sides(BaseModel):
    """A box [xmin, xmax) x [ymin, ymax) in pixels of the annotated picture."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Entry(BaseModel):
    """One object in one frame."""

    tid: int = Field(ge=0, lt=2**31 - 1)
    bbox: Sides


class Named(BaseModel):
    """What a track is."""

    tid: int
    category: str


class Annotation(BaseModel):
    """The parts of VidOR's JSON that are used here; what else it holds is passed over.

    Attributes:
        fps: annotated frames a second; frame k lies k / fps after the video's first.
        width, height: of the picture that boxes are given in.
        objects: each track's category.
        trajectories: the entries of each annotated frame.
    """

    fps: float = Field(gt=0, allow_inf_nan=False)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    objects: list[Named] = Field(alias="subject/objects")
    trajectories: list[list[Entry]]

    @property
    def categories(self) -> dict[int, str]:
        """Category of each track."""
        return {entry.tid: entry.category for entry in self.objects}


def read_annotation(file: Path) -> Annotation:
    """Parse a file; raises ValueError with one line that says what is wrong."""
    try:
        annotation = Annotation.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    except OSError as error:
        raise ValueError((error.strerror or "cannot be read").lower()) from None
    known = annotation.categories
    nameless = {entry.tid for entries in annotation.trajectories for entry in entries} - known.keys()
    if nameless:
        raise ValueError(f"trajectories hold track {min(nameless)}, which subject/objects does not name")
    return annotation


@dataclass(frozen=True)
class Tracks:
    """What lies beside the videos of a corpus.

    Attributes:
        files: annotation file of each video that has one, by the video's key.
        strays: files that belong to no video.
        masks: folder of label maps, `<video key>/<frame number>.png`, if there are any.
        passed_over: keys of videos that are there and were not chosen; what tells of them is no stray.
    """

    files: Mapping[str, Path]
    strays: tuple[str, ...] = ()
    masks: Path | None = None
    passed_over: frozenset[str] = frozenset()

    def label_maps(self, key: str) -> dict[int, Path]:
        """Label maps of a video by the number of the annotated frame, which zeros may precede."""
        folder = None if self.masks is None else self.masks / key
        if folder is None or not folder.is_dir():
            return {}
        return {int(file.stem): file for file in sorted(folder.glob("*.png")) if file.stem.isdecimal()}


def find_tracks(
    corpus: Path, tracks: str, masks: str | None, keys: Iterable[str], passed_over: Collection[str] = ()
) -> Tracks:
    """The annotation files below `corpus/tracks` and their videos.

    A file is a video's if its path ends with the video's key; a leading `video` or `videos` of the key does not count.
    Files of videos that were `passed_over` belong to nobody and are no strays.

    Raises:
        StageError: a folder is missing, or two files belong to one video.
    """
    for name in (tracks, *([masks] if masks else [])):
        if not (corpus / name).is_dir():
            do = "put it there, or set `tracks` and `masks` of the corpus to null"
            raise StageError(f"no folder '{name}' beside the videos", where=corpus, do=do)
    wanted = {_plain(key): key for key in (*passed_over, *keys)}
    others = frozenset(passed_over)
    files: dict[str, Path] = {}
    strays = []
    for name in _json_files(corpus / tracks):
        owner = _owner(name.removesuffix(SUFFIX), wanted)
        if owner is None:
            strays.append(name)
        elif owner in others:
            continue
        elif owner in files:
            both = f"{files[owner].relative_to(corpus / tracks).as_posix()} and {name}"
            raise StageError(f"two files tell of video '{owner}': {both}", where=corpus / tracks, do="remove one")
        else:
            files[owner] = corpus / tracks / name
    return Tracks(files, tuple(strays), corpus / masks if masks else None, others)


def _plain(key: str) -> str:
    return next((key.removeprefix(folder) for folder in VIDEO_FOLDERS if key.startswith(folder)), key)


def _owner(name: str, wanted: dict[str, str]) -> str | None:
    """The video whose key is the longest end of a file's path."""
    parts = name.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((wanted[end] for end in ends if end in wanted), None)


def _json_files(folder: Path) -> list[str]:
    """Paths below `folder`, sorted."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(folder).as_posix() for name in files if name.endswith(SUFFIX)]
    return sorted(found)
