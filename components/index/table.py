"""The frame table of a store as columns, and its cut-free segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.common.errors import StageError
from components.common.frame_store import OK, FrameStore
from components.index.objects import ObjectTable, read_objects

if TYPE_CHECKING:
    import pyarrow as pa

FRAME_COLUMNS = ("video", "frame", "pts_s", "shard", "offset", "size", "height", "width", "cut")
VIDEO_COLUMNS = ("video", "key", "sha256", "duration_s", "status")
MAY_BE_EMPTY = ("sha256", "duration_s")  # of a video that could not be read
US_PER_S = 1_000_000
AGAIN = "run extract_frames again"


@dataclass(frozen=True)
class FrameTable:
    """One value a frame, ordered by (video, time).

    Attributes:
        columns: the parquet file's columns as arrays of length F.
        segment: int32 (F,), running number of the cut-free stretch a frame belongs to.
        segment_start: int64 (S,), first frame of each segment.
        keys: name of each video, by its number.
        identity: what a video is told apart by: the hash of its content, else its key.
        duration_s: float64, length of each video.
        n_bad: videos that could not be extracted.
        objects: what is in the frames; None where the corpus does not tell.
    """

    columns: dict[str, np.ndarray]
    segment: np.ndarray
    segment_start: np.ndarray
    keys: list[str]
    identity: list[str]
    duration_s: np.ndarray
    n_bad: int
    objects: ObjectTable | None = None

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def segment_end(self) -> np.ndarray:
        """int64 (S,), one past the last frame of each segment."""
        return np.append(self.segment_start[1:], len(self))


def read_table(store: FrameStore) -> FrameTable:
    """The tables of a store as columns; raises StageError when there are no frames, or they are out of order."""
    frames = _columns(store.frames, FRAME_COLUMNS, store.path / "frames.parquet")
    videos = _columns(store.videos, VIDEO_COLUMNS, store.path / "videos.parquet")
    if not len(frames["video"]):
        raise StageError("the frame store holds no frames", where=store.path, do="look at the reasons in its videos")
    keys = [str(key) for key in videos["key"]]
    _check_order(frames, len(keys), store.path / "frames.parquet")
    breaks = _breaks(frames)
    return FrameTable(
        columns=frames,
        segment=np.cumsum(breaks, dtype=np.int32) - np.int32(1),
        segment_start=np.flatnonzero(breaks),
        keys=keys,
        identity=[str(sha or key) for sha, key in zip(videos["sha256"], keys, strict=True)],
        duration_s=videos["duration_s"].astype(np.float64),
        n_bad=int((videos["status"] != OK).sum()),
        objects=read_objects(store, frames),
    )


def ticks(pts_s: np.ndarray) -> np.ndarray:
    """Times as whole microseconds, int64: sums and comparisons are exact, 12 frames at 24 fps are 0.5 s."""
    return np.rint(pts_s * US_PER_S).astype(np.int64)


def _breaks(columns: dict[str, np.ndarray]) -> np.ndarray:
    """True where a frame does not follow its predecessor without a cut."""
    first = np.ones(len(columns["video"]), dtype=bool)
    first[1:] = np.diff(columns["video"]) != 0
    return first | columns["cut"].astype(bool)


def _check_order(frames: dict[str, np.ndarray], n_videos: int, file: Path) -> None:
    video, pts_s = frames["video"], frames["pts_s"]
    if video.min() < 0 or video.max() >= n_videos:
        raise StageError("frames of a video that videos.parquet does not list", where=file, do=AGAIN)
    if not np.isfinite(pts_s).all():
        raise StageError("frames without a time stamp", where=file, do=AGAIN)
    step = np.diff(video)
    if (step < 0).any() or (np.diff(pts_s)[step == 0] < 0).any():
        raise StageError("frames are not ordered by video and time", where=file, do=AGAIN)


def _columns(table: pa.Table, names: tuple[str, ...], file: Path) -> dict[str, np.ndarray]:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise StageError(f"no column '{missing[0]}' in a table of the frame store", where=file, do=AGAIN)
    empty = [name for name in names if table[name].null_count and name not in MAY_BE_EMPTY]
    if empty:
        raise StageError(f"column '{empty[0]}' has empty values", where=file, do=AGAIN)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in names}
