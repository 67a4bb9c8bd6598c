"""Objects of a frame store as columns, and which frames share one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components.common.errors import StageError
from components.index.histogram import FRAMES_EDGES, OBJECTS_EDGES, histogram

if TYPE_CHECKING:
    import pyarrow as pa

    from components.common.frame_store import FrameStore

Shared = Literal["track", "category"]
AGAIN = "run extract_frames again"
ROWS_AT_ONCE = 1 << 20  # of a draw, when they are searched for shared objects: some hundred megabytes
MOST_FREQUENT = 20  # categories in the statistics


@dataclass(frozen=True)
class ObjectTable:
    """N objects in F frames, by frame and track.

    Attributes:
        start: int64 (F + 1,), objects start[f] ... start[f + 1] are those of frame f.
        track: int32 (N,), unique in a video.
        category: int32 (N,), number in `categories`.
        box: float32 (N, 4), x0, y0, x1, y1 in pixels of the frame.
        labels: int64 (F, 3), shard, offset and size of the frame's label map (size 0: none); None without any.
        categories: names, sorted.
    """

    start: np.ndarray
    track: np.ndarray
    category: np.ndarray
    box: np.ndarray
    labels: np.ndarray | None
    categories: list[str]

    def __len__(self) -> int:
        return len(self.track)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What the index writes."""
        columns = {"start": self.start, "box": self.box, "track": self.track, "category": self.category}
        return columns if self.labels is None else columns | {"labels": self.labels}

    @cached_property
    def frame(self) -> np.ndarray:
        """int64 (N,), the frame of each object."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def shares(self, rows: np.ndarray, by: Shared) -> np.ndarray:
        """bool (R,): whether one track (or category) is in every frame of each of `rows` (R, k), all of one video."""
        names = self.track if by == "track" else self.category
        width = int(names.max(initial=0)) + 1
        present = np.unique(self.frame * width + names)  # one number for each frame and what is in it, sorted
        pieces = range(0, len(rows), ROWS_AT_ONCE)
        found = [self._shares(rows[first : first + ROWS_AT_ONCE], names, width, present) for first in pieces]
        return np.concatenate([np.zeros(0, dtype=bool), *found])

    def _shares(self, rows: np.ndarray, names: np.ndarray, width: int, present: np.ndarray) -> np.ndarray:
        """Every object of a row's first frame is looked up in its other frames."""
        first = self.start[rows[:, 0]]
        count = self.start[rows[:, 0] + 1] - first
        row = np.repeat(np.arange(len(rows)), count)
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        good = np.ones(len(row), dtype=bool)
        for column in range(1, rows.shape[1]):
            wanted = rows[row, column] * width + names[place]
            at = np.searchsorted(present, wanted).clip(max=max(len(present) - 1, 0))
            good &= present[at] == wanted
        found = np.zeros(len(rows), dtype=bool)
        found[row[good]] = True
        return found

    def statistics(self, video: np.ndarray) -> dict[str, Any]:
        """Counts for stats.json; `video` (F,) is each frame's."""
        owner = video[self.frame].astype(np.int64)
        names = owner * (int(self.track.max(initial=0)) + 1) + self.track
        tracks, first, seen = np.unique(names, return_index=True, return_counts=True)
        counts = np.bincount(self.category[first], minlength=len(self.categories))
        order = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
        return {
            "boxes": len(self),
            "frames": int((np.diff(self.start) > 0).sum()),
            "tracks": len(tracks),
            "label_maps": 0 if self.labels is None else int((self.labels[:, 2] > 0).sum()),
            "categories": len(self.categories),
            "track_frames": histogram(seen, FRAMES_EDGES),
            "frame_objects": histogram(np.diff(self.start), OBJECTS_EDGES),
            "tracks_of_category": {self.categories[k]: int(counts[k]) for k in order.tolist()},
        }


def read_objects(store: FrameStore, frames: dict[str, np.ndarray]) -> ObjectTable | None:
    """The objects of a store, None where its corpus tells of none.

    Args:
        frames: columns `video` and `frame` of the frame table.

    Raises:
        StageError: objects of a frame that the store does not hold, or out of order.
    """
    table, file = store.objects, store.path / "objects.parquet"
    if table is None:
        return None
    video, number, track = (table[name].to_numpy() for name in ("video", "frame", "track"))
    width = int(frames["frame"].max(initial=0)) + 1
    known = frames["video"].astype(np.int64) * width + frames["frame"]
    wanted = video.astype(np.int64) * width + number
    frame = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    if (known[frame] != wanted).any():
        raise StageError("objects of a frame that the store does not hold", where=file, do=AGAIN)
    if (np.diff(frame) < 0).any() or ((np.diff(frame) == 0) & (np.diff(track) <= 0)).any():
        raise StageError("objects are not ordered by frame and track", where=file, do=AGAIN)
    categories, category = _numbered(table["category"])
    return ObjectTable(
        start=np.searchsorted(frame, np.arange(len(known) + 1)),
        track=track,
        category=category,
        box=np.stack([table[side].to_numpy() for side in ("x0", "y0", "x1", "y1")], axis=1).astype(np.float32),
        labels=_labels(table, frame, len(known)),
        categories=categories,
    )


def _numbered(names: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Names sorted, and each row's number among them: of the names themselves, not of the order they came in."""
    coded = names.dictionary_encode().combine_chunks()
    values = np.array(coded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(values, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    codes = coded.indices.to_numpy(zero_copy_only=False)
    return values[order].tolist(), rank[codes] if len(rank) else np.zeros(0, np.int32)


def _labels(table: pa.Table, frame: np.ndarray, n_frames: int) -> np.ndarray | None:
    """Place of each frame's label map: that of any of its objects."""
    has = np.flatnonzero(table["size"].is_valid().to_numpy(zero_copy_only=False))
    if not len(has):
        return None
    labels = np.zeros((n_frames, 3), np.int64)
    for column, name in enumerate(("shard", "offset", "size")):
        labels[frame[has], column] = table[name].take(has).to_numpy(zero_copy_only=False)
    return labels
