"""AO and SR of GOT-10k, from files of boxes; needs no model and no torch.

Huang et al., "GOT-10k: a large high-diversity benchmark for generic object tracking in the wild" (arXiv:1810.11981), as
the official toolkit computes them on `val`: overlap of boxes clipped to the frame, from the second frame on, of frames
in which the object can be seen; AO is the mean overlap and SR the share above a threshold, over all frames of all
videos and repetitions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.layouts.got10k import Boxes, Track, read_boxes

Row = dict[str, Any]
THRESHOLDS = (0.5, 0.75)


@dataclass
class Overlaps:
    """Overlaps of the scored frames, and a row per sequence and per scored frame."""

    values: list[NDArray[np.float64]] = field(default_factory=list)
    sequences: list[Row] = field(default_factory=list)
    frames: list[Row] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The toolkit's figures, and AO as a mean over sequences, in which each weighs the same."""
        return {
            **figures(np.concatenate(self.values)),
            "ao_sequences": float(np.mean([row["ao"] for row in self.sequences])),
        }


def score_tracks(tracks: Sequence[Track], predicted: Path) -> Overlaps:
    """Score `predicted/<sequence>/<sequence>_001.txt` (and `_002`, ...: repetitions count together).

    Raises:
        StageError: a file is missing or malformed, or counts of boxes disagree, or nothing can be scored.
    """
    found = Overlaps()
    for track in tracks:
        files = sorted((predicted / track.name).glob(f"{track.name}_[0-9]*.txt"))
        if not files:
            raise StageError(f"no boxes of sequence {track.name}", where=predicted / track.name)
        _add(found, track, files)
    if not found.sequences:
        raise StageError("nothing to score: no object can be seen after its first frame", where=predicted)
    return found


def overlaps(truth: Boxes, predicted: Boxes, bound: tuple[int, int]) -> NDArray[np.float64]:
    """Intersection over union (T,) of boxes (T, 4) x, y, w, h, clipped to (width, height); 0 if both are empty."""
    a, b = clipped(truth, bound), clipped(predicted, bound)
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    either = a[:, 2:].prod(1) + b[:, 2:].prod(1) - both
    return np.clip(both / (either + np.finfo(float).eps), 0, 1)


def clipped(boxes: Boxes, bound: tuple[int, int]) -> Boxes:
    """Corners to the frame, then sides to what is left: a box that begins outside keeps its length, as published."""
    limits = np.array(bound, float)
    corners = np.clip(boxes[:, :2], 0, limits)
    return np.concatenate([corners, np.clip(boxes[:, 2:], 0, limits - corners)], axis=1)


def figures(values: NDArray[np.float64]) -> dict[str, float]:
    """AO and SR of overlaps."""
    rates = {f"sr_{threshold}": float((values > threshold).mean()) for threshold in THRESHOLDS}
    return {"ao": float(values.mean()), **rates}


def _add(found: Overlaps, track: Track, files: Sequence[Path]) -> None:
    seen = track.cover[1:] > 0
    values = []
    for repetition, file in enumerate(files, start=1):
        boxes = read_boxes(file)
        if len(boxes) != len(track.boxes):
            what = f"{len(boxes)} boxes, sequence {track.name} has {len(track.boxes)} frames"
            raise StageError(what, where=file)
        own = overlaps(track.boxes[1:], boxes[1:], track.bound)
        values.append(own[seen])
        numbers = np.flatnonzero(seen) + 2  # frames are counted from 1, and the first is given
        found.frames += [
            {"sequence": track.name, "repetition": repetition, "frame": int(n), "iou": float(v)}
            for n, v in zip(numbers, values[-1], strict=True)
        ]
    if seen.any():
        together = np.concatenate(values)
        found.values.append(together)
        found.sequences.append({"sequence": track.name, **figures(together), "scored": len(together)})
