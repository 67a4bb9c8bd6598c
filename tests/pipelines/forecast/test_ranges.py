"""Blocks that samples touch, against counting them on a made layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.common.s3.params import S3Params
from pipelines.forecast.corpus import Videos
from pipelines.forecast.frames import Frames, extract
from pipelines.forecast.ranges import pass_bytes, sample_blocks, sample_bytes
from pipelines.forecast.rates import read_rates

PAIR: dict[str, Any] = {"offsets_s": [0, 0.5]}
CLIP: dict[str, Any] = {"n_frames": 8, "gap_s": 1.0}


def corpus(n: int, video_s: float = 60.0) -> Frames:
    told = Videos(n, video_s, 24.0, 1280, 720, 1e6, 0.0, 2.0, drawn=False, known="test")
    return extract(told, {"fps": 4, "short_side_px": 256}, read_rates())[0]


@pytest.mark.parametrize("block_mib", [1 / 16, 1.0])
@pytest.mark.parametrize(("draw", "steps"), [({"offsets_s": [0]}, [0]), (PAIR, [0, 2]), (CLIP, range(0, 32, 4))])
def test_blocks_are_those_of_a_made_layout(block_mib: float, draw: dict[str, Any], steps: Any) -> None:
    """Members of varying size one behind the other: the mean over many places."""
    frames, block = corpus(50), block_mib * 2**20
    rng = np.random.default_rng(0)
    sizes = (frames.jpeg_bytes * rng.uniform(0.7, 1.3, 12_000)).astype(int)
    padded = 512 + -(-sizes // 512) * 512
    starts = np.cumsum(padded) - padded + 512
    counted = []
    for anchor in range(0, 11_900, 7):
        rows = [anchor + step for step in steps]
        touched = {
            b for r in rows for b in range(int(starts[r] // block), int((starts[r] + sizes[r] - 1) // block) + 1)
        }
        counted.append(len(touched))
    assert sample_blocks(frames, draw, block) == pytest.approx(np.mean(counted), rel=0.03)


def test_a_cache_that_holds_the_store_reads_it_once() -> None:
    frames = corpus(50)
    large = S3Params(cache_gib=100)
    assert pass_bytes(frames, {"offsets_s": [0]}, 100 * frames.n, large) == frames.store.bytes
    assert sample_bytes(frames, {"offsets_s": [0]}, large) == 0


def test_a_small_cache_pays_whole_blocks() -> None:
    """A random 24 kB frame of a store a hundred times the cache costs a megabyte, or 90 kB in blocks of 64 KiB."""
    frames = corpus(400_000)
    assert frames.store.bytes > 100 * S3Params().cache_bytes
    assert sample_bytes(frames, {"offsets_s": [0]}, S3Params()) == pytest.approx(1.06e6, rel=0.02)
    assert sample_bytes(frames, {"offsets_s": [0]}, S3Params(block_mib=1 / 16)) == pytest.approx(88_000, rel=0.03)
