"""VISOR as it unpacks: frames and polygons, made into masks of object ids as the authors' exporter to DAVIS does.

    annotations/<split>/P01_01.json    rgb_frames/<split>/P01/P01_01/P01_01_frame_0000000140.jpg

A file's `video_annotations` have an `image` (name, video, subsequence) and `annotations`, each a name and `segments`,
polygons in pixels of 1920x1080. A subsequence is a video of the benchmark. Its objects are numbered by the order of
their names: in `train` of all its frames, in any other split of its first frame, and what enters later is no object.
Polygons are drawn in the order of the file, the later over the earlier. A frame without an object has no mask, and a
video of few masks (two in `train`, one elsewhere) is left out.

What differs: an empty polygon is nothing, where the exporter colours the pixel in the corner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.images import size_of
from components.evaluate.layouts.coco import read_json
from components.evaluate.layouts.video_masks import ARCHIVES, VOID, MaskedVideo

DRAWN_PX = (1080, 1920)  # height and width that polygons refer to
LEAST_MASKS = {"train": 3}  # of a video, as the exporter has it
LEAST_MASKS_ELSEWHERE = 2

Polygon = NDArray[np.int32]
Shape = tuple[int, list[Polygon]]  # object id and what is filled at once
Entities = list[tuple[str, list[Polygon]]]


@dataclass(frozen=True)
class PolygonVideo(MaskedVideo):
    """A video whose masks are drawn when they are asked for; `masks` are the frames they belong to.

    Attributes:
        shapes: what is drawn on each frame, in order, by the frame's name without suffix.
    """

    shapes: Mapping[str, list[Shape]] = field(default_factory=dict)

    def mask(self, number: int) -> NDArray[np.uint8]:
        canvas = np.zeros(DRAWN_PX, np.uint8)
        for value, polygons in self.shapes[self.masks[number].stem]:
            cv2.fillPoly(canvas, polygons, value)
        height, width = size_of(self.frames[number])
        return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def read_polygons(root: Path, split: str, wanted: list[str] | None) -> list[MaskedVideo]:
    """The subsequences of a split, by name; only the `wanted` ones where a list is given.

    Raises:
        StageError: annotations or frames are missing, a file is not VISOR's, or a wanted video is not there.
    """
    folder = root / "annotations" / split
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise StageError(f"no annotations of split '{split}'", where=folder, do="expected a JSON file a video")
    found = {video.name: video for file in files for video in _videos(file, root / "rgb_frames" / split, split, wanted)}
    if absent := [name for name in wanted or [] if name not in found]:
        raise StageError(f"video {absent[0]} is listed but has no masks", where=folder)
    if not found:
        raise StageError("no video here has enough masks", where=folder)
    return [found[name] for name in (wanted if wanted is not None else sorted(found))]


def _videos(file: Path, frames: Path, split: str, wanted: list[str] | None) -> Iterator[MaskedVideo]:
    """The subsequences of one file."""
    sequences: dict[str, dict[str, Entities]] = {}
    for sequence, name, entities in _annotations(file):
        sequences.setdefault(sequence, {})[name] = entities
    for sequence, by_frame in sequences.items():
        if wanted is not None and sequence not in wanted:
            continue
        shapes = _numbered(dict(sorted(by_frame.items())), split == "train", file)
        if len(shapes) >= LEAST_MASKS.get(split, LEAST_MASKS_ELSEWHERE):
            files = tuple(_frame(frames, file.stem, name) for name in shapes)
            yield PolygonVideo(sequence, files, files, None, {Path(name).stem: found for name, found in shapes.items()})


def _numbered(by_frame: dict[str, Entities], all_frames: bool, file: Path) -> dict[str, list[Shape]]:
    """Shapes of the objects that count, by frame; frames that show none are left out."""
    told = list(by_frame.values()) if all_frames else list(by_frame.values())[:1]
    names = sorted({name for entities in told for name, polygons in entities if polygons})
    if len(names) >= VOID:
        raise StageError(f"{len(names)} objects in a video, a mask holds {VOID - 1}", where=file)
    number = {name: i for i, name in enumerate(names, start=1)}
    shapes = {
        frame: [(number[name], polygons) for name, polygons in entities if polygons and name in number]
        for frame, entities in by_frame.items()
    }
    return {frame: found for frame, found in shapes.items() if found}


def _frame(frames: Path, video: str, name: str) -> Path:
    """The picture, below its participant's folder or directly below the split's."""
    places = [frames / video.partition("_")[0] / video, frames / video]
    for place in places:
        if (place / name).is_file():
            return place / name
    for packed in (place.with_suffix(suffix) for place in places for suffix in ARCHIVES):
        if packed.is_file():
            raise StageError("an archive where folders of frames are expected", where=packed, do="unpack it there")
    raise StageError(f"frame {name} of video {video} is missing", where=places[0])


def _annotations(file: Path) -> Iterator[tuple[str, str, Entities]]:
    """(subsequence, frame, objects with their polygons) of each annotated picture."""
    try:
        for entry in read_json(file)["video_annotations"]:
            image = entry["image"]
            name, sequence = str(image["name"]), str(image["subsequence"])
            if Path(name).name != name:
                raise ValueError(f"a frame cannot be named {name}")
            entities = [(str(told["name"]), list(_polygons(told["segments"]))) for told in entry["annotations"]]
            yield sequence, name, entities
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StageError(f"not VISOR's annotations, {what}", where=file) from None


def _polygons(segments: Any) -> Iterator[Polygon]:
    """Polygons (N, 1, 2) of whole pixels, empty ones left out; fractions are cut off as the exporter does."""
    for points in segments:
        if len(points):
            corners = np.array(points, np.float64)
            if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
                raise ValueError("a polygon must be a list of [x, y]")
            yield np.clip(corners, -(2**15), 2**15).astype(np.int32)[:, None]
