"""Objects of the stored frames: annotated boxes joined to frames by time.

A stored frame takes the boxes of the nearest annotated frame, if that lies within half an annotated step; none is
interpolated, since label maps cannot be, and VidOR tells of every frame. Until the store is written boxes are shares of
the picture: only the stored frame knows its own size.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import StageError
from components.common.frame_store_writer import TrackBox, VideoRow
from components.extract_frames.annotations import Annotation, Tracks, read_annotation
from components.extract_frames.video import Extracted

OBJECT = np.dtype([("at", "<i8"), ("annotated", "<i8"), ("track", "<i8"), ("box", "<f8", (4,))])
ASPECT_TOLERANCE = 0.03  # stored pictures are rounded to whole pixels; a picture on its side is off by half or more
SIDEWAYS = (90, 270)
LABEL_MODES = ("P", "L", "I", "I;16", "I;16B")  # Pillow's names: a palette index or one grey value a pixel


@dataclass
class VideoObjects:
    """Objects of one video's stored frames, by frame and track; columns of equal length.

    Attributes:
        at: which stored frame of the video, from 0.
        annotated: which annotated frame it was taken from.
        track: track of the object.
        box: (N, 4) x0, y0, x1, y1 as shares of the picture's width and height.
        categories: name of each track.
        n_outside: boxes that were left out: no part of them lies in the picture, or their track has another one.
        trouble: why the video's annotation could not be used; empty where it could, or where there is none.
        note: what is amiss and does no harm.
        n_bare: stored frames without a mask, in a video that has masks.
    """

    at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    annotated: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    track: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    box: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    categories: dict[int, str] = field(default_factory=dict)
    n_outside: int = 0
    trouble: str = ""
    note: str = ""
    n_bare: int = 0

    @property
    def rows(self) -> NDArray[np.void]:
        """The columns as an array OBJECT (N,), as they are kept until the store is written."""
        rows = np.zeros(len(self.at), OBJECT)
        for name in OBJECT.names or ():
            rows[name] = getattr(self, name)
        return rows

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept beside the rows, as JSON."""
        names = ("categories", "n_outside", "trouble", "note", "n_bare")
        return {name: getattr(self, name) for name in names}

    @staticmethod
    def parsed(rows: bytes, facts: Mapping[str, Any]) -> VideoObjects:
        """The objects of which `rows` and `facts` were kept."""
        columns: dict[str, Any] = {name: np.frombuffer(rows, OBJECT)[name] for name in OBJECT.names or ()}
        categories = {int(track): name for track, name in facts["categories"].items()}
        said = {name: facts[name] for name in ("n_outside", "trouble", "note", "n_bare")}
        return VideoObjects(**columns, categories=categories, **said)


def objects_of(extracted: Extracted, tracks: Tracks) -> VideoObjects:
    """The objects of a video's frames; an annotation that cannot be used gives none, and says why."""
    file = tracks.files.get(extracted.video.key)
    if file is None:
        return VideoObjects()
    try:
        annotation = read_annotation(file)
        _check_fits(annotation, extracted.video)
    except ValueError as error:
        return VideoObjects(trouble=f"{file.name}: {error}")
    found = join(annotation, extracted.frames["pts_s"])
    found.note = _beyond(tracks.label_maps(extracted.video.key), len(annotation.trajectories))
    return found


def _beyond(label_maps: Mapping[int, Path], n_annotated: int) -> str:
    """A line about label maps of frames that the annotation does not tell of; empty where there are none."""
    beyond = [number for number in label_maps if number >= n_annotated]
    if not beyond:
        return ""
    first = label_maps[min(beyond)].name
    return f"{len(label_maps)} label maps for {n_annotated} annotated frames, {first} is the first that has none"


def join(annotation: Annotation, pts_s: NDArray[np.float64]) -> VideoObjects:
    """Boxes of the annotated frame nearest to each of `pts_s` (seconds from the video's first frame)."""
    nearest = np.floor(pts_s * annotation.fps + 0.5).astype(np.int64)
    rows = [
        (at, k, entry.tid, entry.bbox.xmin, entry.bbox.ymin, entry.bbox.xmax, entry.bbox.ymax)
        for at, k in enumerate(nearest.tolist())
        if k < len(annotation.trajectories)
        for entry in sorted(annotation.trajectories[k], key=lambda entry: entry.tid)
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    index, box = table[:, :3].astype(np.int64), table[:, 3:]
    box = np.clip(box / np.tile([annotation.width, annotation.height], 2), 0, 1)
    good = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    good[1:] &= (np.diff(index[:, [0, 2]], axis=0) != 0).any(axis=1)  # a track is in one place at a time
    at, annotated, track = index[good].T
    return VideoObjects(at, annotated, track, box[good], annotation.categories, int((~good).sum()))


def _check_fits(annotation: Annotation, video: VideoRow) -> None:
    """Raise ValueError where boxes were drawn in a picture of another shape, or for another length of time."""
    width, height = video.width, video.height
    if video.rotation in SIDEWAYS:
        width, height = height, width
    if width and abs(annotation.width * height / (annotation.height * width) - 1) > ASPECT_TOLERANCE:
        said = f"{annotation.width}x{annotation.height}"
        raise ValueError(f"its boxes are of a picture of {said}, the video shows {width}x{height}")
    told_s = len(annotation.trajectories) / annotation.fps
    if video.duration_s is not None and told_s > 1.05 * video.duration_s + 1 / annotation.fps + 1:
        raise ValueError(f"it tells of {told_s:.1f} s, the video has {video.duration_s:.1f} s")


def per_frame(
    objects: VideoObjects, label_maps: dict[int, Path], n_frames: int
) -> Iterator[tuple[VideoObjects, Path | None]]:
    """For each stored frame its objects and the file of its label map, if there is one."""
    edges = np.searchsorted(objects.at, np.arange(n_frames + 1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        names = ("at", "annotated", "track", "box")
        own = dataclasses.replace(objects, **{name: getattr(objects, name)[start:end] for name in names})
        yield own, label_maps.get(int(own.annotated[0])) if end > start else None


def in_pixels(objects: VideoObjects, height: int, width: int) -> tuple[TrackBox, ...]:
    """The objects of one frame, in pixels of that frame."""
    boxes = (objects.box * np.tile([width, height], 2)).tolist()
    tracks = objects.track.tolist()
    return tuple(TrackBox(t, objects.categories[t], *box) for t, box in zip(tracks, boxes, strict=True))


def with_labels(
    objects: VideoObjects, file: Path, height: int, width: int, table: NDArray[np.uint8] | None = None
) -> tuple[tuple[TrackBox, ...], bytes]:
    """The objects of one frame that its label map shows, boxed by their pixels, and the map at the frame's size.

    Args:
        table: uint8 (256,), what becomes of each value of the file; None: values stay.

    Raises:
        StageError: the file is no label map: one palette index or grey value a pixel.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in LABEL_MODES:
                raise StageError(f"a picture of mode {image.mode} is no label map", where=file)
            labels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST)).astype(np.uint16)
    except OSError as error:
        raise StageError(f"unreadable label map, {error}", where=file) from None
    labels = labels if table is None else table[labels].astype(np.uint16)
    labels[~np.isin(labels, objects.track + 1)] = 0
    boxes = []
    for track in objects.track.tolist():
        rows, columns = (np.flatnonzero((labels == track + 1).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            sides = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            boxes.append(TrackBox(track, objects.categories[track], *map(float, sides)))
    return tuple(boxes), _png(labels) if boxes else b""


def _png(labels: NDArray[np.uint16]) -> bytes:
    stream = io.BytesIO()
    narrow = labels if labels.max() > np.iinfo(np.uint8).max else labels.astype(np.uint8)
    Image.fromarray(narrow).save(stream, "PNG")
    return stream.getvalue()
