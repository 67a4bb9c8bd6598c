"""Figures of a corpus counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.common.clip_index import TRAIN, VAL
from components.index.config import FingerprintParams
from components.index.frame_prints import FRAME_PRINT, sampled_frames
from components.index.statistics import statistics

from .conftest import make_table

ALL_BITS = np.uint64(2**64 - 1)


def test_counts_times_and_pictures() -> None:
    table = make_table([[[0, 0.5, 1.0, 1.5], [4.0, 4.25]], [[0, 3.0]], [[0.0]]], ["a", "b", "a"])
    table.columns["width"][:6] = 340
    frames = sampled_frames(table, every_s=1.0)
    assert frames.tolist() == [0, 2, 4, 6, 7, 8]
    prints = np.zeros(6, dtype=FRAME_PRINT)
    prints["frame"] = frames
    prints["texture"] = [9, 9, 9, 9, 1, 9]
    prints["luma_mean"] = [10, 20, 30, 40, 50, 60]
    prints["hash"][4] = ALL_BITS  # frame 7 differs from frame 6; frame 2 equals frame 0
    draws = {"pair": np.array([[0, 1], [1, 2], [6, 7]])}
    split = np.array([TRAIN, TRAIN, VAL], dtype=np.int8)
    stats = statistics(table, split, prints, draws, FingerprintParams())

    assert stats["videos"] == {"all": 3, "bad": 0, "train": 2, "val": 1, "excluded": 0, "copies": 1}
    assert stats["hours"] == pytest.approx((4.25 + 3.0 + 0.0) / 3600)
    assert stats["frames"] == {"all": 9, "train": 8}
    assert stats["frames_per_video"] == {"min": 1, "median": 2, "mean": 3, "max": 6}
    assert stats["segments"]["all"] == 4
    assert stats["segments"]["cuts"] == 1
    assert stats["segments"]["length_s"] == {"min": 0, "median": 0.875, "mean": (1.5 + 0.25 + 3) / 4, "max": 3}
    assert (stats["gap_s"]["min"], stats["gap_s"]["max"]) == (0.25, 3)  # the 2.5 s across the cut are no gap
    filled = {bar["from"]: bar["count"] for bar in stats["gap_s"]["histogram"] if bar["count"]}
    assert filled == {0.2: 1, 0.5: 3, 2: 1}
    assert stats["resolution"] == {"340x100": 6, "100x100": 3}
    assert stats["bytes"] == 900
    assert stats["pictures"] == {
        "looked_at": 6,
        "luma_mean": 35,
        "luma_std_within_thumbnail": 0,
        "share_without_texture": pytest.approx(1 / 6),
        "share_static": 0.5,
    }
    assert stats["draws"] == {"pair": {"rows": 3, "k": 2, "videos": 2}}
    json.dumps(stats, allow_nan=False)


def test_a_corpus_of_one_frame() -> None:
    table = make_table([[[0.0]]])
    prints = np.zeros(1, dtype=FRAME_PRINT)
    stats = statistics(table, np.zeros(1, np.int8), prints, {"frame": np.array([[0]])}, FingerprintParams())
    assert stats["gap_s"]["median"] is None
    assert stats["pictures"]["share_static"] is None
    json.dumps(stats, allow_nan=False)
