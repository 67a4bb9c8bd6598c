"""What is in a corpus, in figures: `stats.json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from components.common.clip_index import EXCLUDED, TRAIN, VAL
from components.index.config import FingerprintParams
from components.index.histogram import GAP_EDGES_S, LENGTH_EDGES_S, histogram
from components.index.table import FrameTable

RESOLUTIONS = 10  # sizes listed, the most frequent first
S_PER_H = 3600.0
SIDE_BITS = 31


def statistics(
    table: FrameTable, split: np.ndarray, prints: np.ndarray, draws: dict[str, np.ndarray], params: FingerprintParams
) -> dict[str, Any]:
    """Counts, times, sizes and pictures of a corpus, as one JSON value.

    Args:
        table: F frames.
        split: int8 (V,), the side of each video.
        prints: the fingerprinted frames.
        draws: rows by name.
        params: which fingerprints count as equal and which as empty.
    """
    video, pts_s = table.columns["video"], table.columns["pts_s"]
    start, end = table.segment_start, table.segment_end
    gaps_s, length_s = np.diff(pts_s)[np.diff(table.segment) == 0], pts_s[end - 1] - pts_s[start]
    known_s = table.duration_s[np.isfinite(table.duration_s)]
    objects = {} if table.objects is None else {"objects": table.objects.statistics(video)}
    return {
        "videos": _videos(table, split),
        "hours": float(np.nansum(table.duration_s)) / S_PER_H,
        "frames": {"all": len(table), "train": int((split[video] == TRAIN).sum())},
        "frames_per_video": _spread(np.unique(video, return_counts=True)[1]),
        "video_s": {**_spread(known_s), "histogram": histogram(known_s, LENGTH_EDGES_S)},
        "segments": {
            "all": len(start),
            "cuts": len(start) - len(np.unique(video)),
            "length_s": _spread(length_s),
            "histogram": histogram(length_s, LENGTH_EDGES_S),
        },
        "gap_s": {**_spread(gaps_s), "histogram": histogram(gaps_s, GAP_EDGES_S)},
        "resolution": _resolutions(table),
        "bytes": int(table.columns["size"].sum(dtype=np.int64)),
        "pictures": _pictures(table, prints, params),
        "draws": {name: _draw(rows, video) for name, rows in draws.items()},
        **objects,
    }


def _draw(rows: np.ndarray, video: np.ndarray) -> dict[str, int]:
    return {"rows": rows.shape[0], "k": rows.shape[1], "videos": len(np.unique(video[rows[:, 0]]))}


def _videos(table: FrameTable, split: np.ndarray) -> dict[str, int]:
    present = np.unique(table.columns["video"])
    contents = Counter(table.identity[video] for video in present.tolist())
    return {
        "all": len(table.keys),
        "bad": table.n_bad,
        "train": int((split[present] == TRAIN).sum()),
        "val": int((split[present] == VAL).sum()),
        "excluded": int((split[present] == EXCLUDED).sum()),
        "copies": sum(n - 1 for n in contents.values()),  # same bytes under another name
    }


def _pictures(table: FrameTable, prints: np.ndarray, params: FingerprintParams) -> dict[str, Any]:
    """Luminance in grey levels, and how much of the corpus is empty or stands still, at one frame a period."""
    neighbours = np.diff(table.segment[prints["frame"]]) == 0
    bits = np.bitwise_count(prints["hash"][1:] ^ prints["hash"][:-1]).sum(axis=1)[neighbours]
    return {
        "looked_at": len(prints),
        "luma_mean": float(prints["luma_mean"].mean(dtype=np.float64)),
        "luma_std_within_thumbnail": float(prints["luma_std"].mean(dtype=np.float64)),
        "share_without_texture": float((prints["texture"] < params.min_texture).mean()),
        "share_static": float((bits <= params.max_distance_bits).mean()) if len(bits) else None,
    }


def _resolutions(table: FrameTable) -> dict[str, int]:
    width, height = (table.columns[name].astype(np.int64) for name in ("width", "height"))
    coded, counts = np.unique(width << SIDE_BITS | height, return_counts=True)  # one number sorts faster than a pair
    sizes = np.stack([coded >> SIDE_BITS, coded & (1 << SIDE_BITS) - 1], axis=1)
    order = np.argsort(-counts, kind="stable")[:RESOLUTIONS]
    return {
        f"{width}x{height}": int(n) for (width, height), n in zip(sizes[order].tolist(), counts[order], strict=True)
    }


def _spread(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"min": None, "median": None, "mean": None, "max": None}
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean(dtype=np.float64)),
        "max": float(values.max()),
    }
