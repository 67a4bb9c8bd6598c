"""Clip subsets as the builders of Cross-Time's VidOR make them (public code): few pairs a video, no frame twice.

A video of fewer than `min_frames` frames gives none. Of the others at most clamp(n_frames // (s + 1), least, most) rows
are taken, where s is how many frames lie from the first to the last of a row: starts are shuffled, and a row is taken
if none of its frames is in one already. The builders shuffle without a seed and never try the last start; here the
order is drawn from (seed, video), and every row counts.
"""

from __future__ import annotations

import numpy as np

from components.index.config import Subset
from components.index.table import FrameTable


def take_subset(rows: np.ndarray, table: FrameTable, subset: Subset, chance: np.ndarray) -> np.ndarray:
    """The chosen of `rows` (N, k), in their order.

    Args:
        rows: frames of one video each, ordered by video.
        chance: float (F,) in [0, 1): the place of a row in the shuffle, by its first frame.
    """
    video = table.columns["video"]
    n_frames = np.bincount(video, minlength=len(table.keys))
    kept = [
        _of_video(own, int(n_frames[video[rows[own[0], 0]]]), rows, subset, chance)
        for own in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(video[rows[:, 0]])) + 1)
        if len(own)
    ]
    return rows[np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))]


def _of_video(own: np.ndarray, n_frames: int, rows: np.ndarray, subset: Subset, chance: np.ndarray) -> np.ndarray:
    if n_frames < subset.min_frames:
        return own[:0]
    gap = int(np.median(rows[own, -1] - rows[own, 0]))
    wanted = min(max(n_frames // (gap + 1), subset.per_video[0]), subset.per_video[1])
    used: set[int] = set()
    taken: list[int] = []
    for row in own[np.argsort(chance[rows[own, 0]], kind="stable")].tolist():
        frames = set(rows[row].tolist())
        if len(taken) < wanted and not frames & used:
            taken.append(row)
            used |= frames
    return np.array(taken, np.int64)
