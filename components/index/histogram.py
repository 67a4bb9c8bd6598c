"""Counts in bins, as the statistics keep them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

INF = float("inf")
GAP_EDGES_S = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, INF)
LENGTH_EDGES_S = (0, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, INF)
FRAMES_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, INF)
OBJECTS_EDGES = (0, 1, 2, 3, 4, 5, 7, 10, 20, 50, INF)


def histogram(values: np.ndarray, edges: Sequence[float]) -> list[dict[str, Any]]:
    """Counts in half-open bins [from, to); the last has no end, `to` is None."""
    counts, _ = np.histogram(values[np.isfinite(values)], bins=np.array(edges, np.float64))
    ends = [*edges[1:-1], None]
    return [{"from": low, "to": high, "count": int(n)} for low, high, n in zip(edges[:-1], ends, counts, strict=True)]
