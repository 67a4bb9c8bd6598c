"""Reading frames by range: whole blocks come over the wire, and a bounded cache keeps some of them.

A sample of random frames costs a block for each place it touches, many times its own bytes, unless the cache holds the
store. In a steady state a random block is at hand with the share of the store that the cache holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from components.common.s3.params import S3Params
from pipelines.forecast.frames import TAR_BLOCK, Frames
from pipelines.forecast.index import offsets_of


def sample_blocks(frames: Frames, draw: Mapping[str, Any], block_bytes: float) -> float:
    """Expected number of different blocks that one sample's frames lie in."""
    member = 1.5 * TAR_BLOCK + frames.jpeg_bytes  # a frame in its tar: header, data, padding
    times = offsets_of(draw)
    steps = [(after - before) * len(frames.times_s) / frames.videos.video_s for before, after in pairwise(times)]
    blocks = 1 + frames.jpeg_bytes / block_bytes  # the first frame, and its chance to reach into another block
    for step in steps:
        blocks += min(step * member, block_bytes + frames.jpeg_bytes) / block_bytes
    return blocks


def sample_bytes(frames: Frames, draw: Mapping[str, Any], s3: S3Params) -> float:
    """Expected bytes over the wire for one random sample, once the cache is full."""
    missing = max(0.0, 1 - s3.cache_bytes / frames.store.bytes)
    return sample_blocks(frames, draw, s3.block_bytes) * s3.block_bytes * missing


def pass_bytes(frames: Frames, draw: Mapping[str, Any], rows: float, s3: S3Params) -> float:
    """Expected bytes of one pass: the store once where the cache holds it, else what the samples miss."""
    if s3.cache_bytes >= frames.store.bytes:
        touched = rows * sample_blocks(frames, draw, s3.block_bytes) * s3.block_bytes
        return min(frames.store.bytes, touched)
    return rows * sample_bytes(frames, draw, s3)
