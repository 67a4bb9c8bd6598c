"""Objects of the frames of a clip index, as memory-mapped columns.

objects/start.npy      int64 (F + 1,): objects start[f] ... start[f + 1] are those of frame f
objects/box.npy        float32 (N, 4): x0, y0, x1, y1 in pixels of the frame, ends exclusive
objects/track.npy      int32 (N,): unique in a video, rising in a frame
objects/category.npy   int32 (N,): number of its name in index.json
objects/labels.npy     int64 (F, 3): shard, offset, size of the frame's label map, whose pixels are track + 1;
                       size 0 where there is none. Only in an index that has label maps
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.columns import open_column, save_array

FOLDER = "objects"
DTYPES = {"start": "<i8", "box": "<f4", "track": "<i4", "category": "<i4", "labels": "<i8"}


class FrameObjects(NamedTuple):
    """The n objects of one frame.

    Attributes:
        track, category: int32 (n,).
        box: float32 (n, 4).
        labels: shard, offset and size of the frame's label map in the frame store, None where there is none.
    """

    track: np.ndarray
    category: np.ndarray
    box: np.ndarray
    labels: tuple[int, int, int] | None


class ObjectIndex:
    """Reader of an index's objects; columns are mapped at first use.

    Attributes:
        categories: names, by number.
    """

    def __init__(self, index: Path, meta: Mapping[str, Any], n_frames: int) -> None:
        self._folder, self._n_frames = index / FOLDER, n_frames
        self._n, self._has_labels = int(meta["count"]), bool(meta["labels"])
        self.categories: tuple[str, ...] = tuple(meta["categories"])

    def __len__(self) -> int:
        return self._n

    def of(self, row: int) -> FrameObjects:
        """Objects of the frame in `row`, as copies."""
        columns = self._columns
        start, end = int(columns["start"][row]), int(columns["start"][row + 1])
        track, category, box = (np.array(columns[name][start:end]) for name in ("track", "category", "box"))
        shard, offset, size = columns["labels"][row].tolist() if self._has_labels else (0, 0, 0)
        return FrameObjects(track, category, box, (shard, offset, size) if size else None)

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        shapes: dict[str, tuple[int, ...]] = {
            "start": (self._n_frames + 1,),
            "box": (self._n, 4),
            "track": (self._n,),
            "category": (self._n,),
        }
        if self._has_labels:
            shapes["labels"] = (self._n_frames, 3)
        # asarray: a view without memmap's own bookkeeping, which costs more than the read
        return {
            name: np.asarray(open_column(self._folder / f"{name}.npy", DTYPES[name], shape))
            for name, shape in shapes.items()
        }


def write_objects(
    index: Path, columns: Mapping[str, npt.ArrayLike], categories: list[str], n_frames: int
) -> dict[str, Any]:
    """Write the columns (`labels` may be left out); returns the entry of `index.json`."""
    arrays = {name: np.ascontiguousarray(column, dtype=DTYPES[name]) for name, column in columns.items()}
    n = len(arrays["track"])
    start = arrays["start"]
    if start.shape != (n_frames + 1,) or start[0] != 0 or start[-1] != n or (np.diff(start) < 0).any():
        raise ValueError(f"starts of {n} objects must rise from 0 to {n} over {n_frames} frames")
    if arrays["box"].shape != (n, 4) or arrays["category"].shape != (n,):
        raise ValueError("object columns differ in length")
    for name, array in arrays.items():
        save_array(index / FOLDER / f"{name}.npy", array)
    return {"count": n, "categories": categories, "labels": "labels" in arrays}
