"""Extraction: which frames a corpus gives, what they weigh, how long decoding takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.forecast.corpus import Videos
from pipelines.forecast.rates import Rates
from pipelines.forecast.work import Artifact, Work

TAR_BLOCK = 512  # a member is a header of one block and its data padded to whole ones (half a block on average)
SHARD_ENTRY_BYTES = 143  # of store.json a shard: name, size, sha256
SPLIT = {"piece_s": 60.0, "split_mb": 64.0}  # the stage's defaults
CELL_TOLERANCE_S = 0.0011  # a frame this much before its cell of the time grid still counts (extract_frames)
LONGEST = 1_000_000  # frames of one video that are laid out in time; longer videos are taken in proportion
KEPT_PX = 256.0  # short side at which bytes per pixel were measured


@dataclass(frozen=True)
class Frames:
    """The frame store of a corpus.

    Attributes:
        n: frames in all; `times_s`: those of one video, in seconds.
        width_px, height_px, jpeg_bytes: of one stored frame.
        shards: tar files.
        store: the whole folder.
    """

    n: float
    times_s: NDArray[np.float64]
    videos: Videos
    width_px: float
    height_px: float
    jpeg_bytes: float
    shards: int
    store: Artifact


def extract(videos: Videos, params: Mapping[str, Any], rates: Rates) -> tuple[Frames, Work]:
    """The store that `extract_frames` will write, and the work of it. Cuts that are not looked for part nothing."""
    if params.get("cuts") is None:
        videos = replace(videos, cuts_per_s=0.0)
    times = frame_times(videos, params)
    n = videos.n * len(times) * max(1.0, videos.video_s * videos.fps / LONGEST)
    width, height = stored_size(videos, params)
    frames = _store(n, times, videos, width, height, params, rates)
    return frames, _work(frames, params, rates)


def frame_times(videos: Videos, params: Mapping[str, Any]) -> NDArray[np.float64]:
    """Times of the frames taken from one video: the first source frame of every cell of the time grid."""
    shown: NDArray[np.float64] = np.arange(max(1, min(LONGEST, round(videos.video_s * videos.fps)))) / videos.fps
    mode = params.get("mode", "fps")
    if mode == "keyframes":
        return shown[:: max(1, round(videos.keyframe_s * videos.fps))]
    if mode == "count":
        cells_per_s = float(params["count"]) / (len(shown) / videos.fps)
    else:
        cells_per_s = float(params["fps"]) if mode == "fps" else 1 / float(params["every_s"])
    cell = np.floor((shown + CELL_TOLERANCE_S) * cells_per_s)
    taken = np.diff(cell, prepend=-1) > 0
    taken[-1] |= bool(params.get("last_frame"))
    return shown[taken]


def stored_size(videos: Videos, params: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of a stored frame: the short side becomes `short_side_px`, never larger unless asked."""
    short = min(videos.width_px, videos.height_px)
    wanted = float(params.get("short_side_px", 256))
    scale = wanted / short if wanted < short or params.get("upscale") else 1.0
    return round(videos.width_px * scale), round(videos.height_px * scale)


def jpeg_bytes(width: float, height: float, quality: float, rates: Rates) -> float:
    """Mean size of a frame: fewer bytes a pixel for larger pictures and coarser quantisers."""
    per_px = rates.extract.jpeg_bytes_per_px * (KEPT_PX / min(width, height)) ** rates.extract.jpeg_bytes_side_exponent
    return width * height * per_px * (2 / quality) ** rates.extract.jpeg_bytes_quality_exponent


def _store(
    n: float,
    times: NDArray[np.float64],
    videos: Videos,
    width: float,
    height: float,
    params: Mapping[str, Any],
    rates: Rates,
) -> Frames:
    each = jpeg_bytes(width, height, float(params.get("quality", 2)), rates)
    tar = n * (TAR_BLOCK + each + TAR_BLOCK / 2)
    shards = max(int(params.get("parts", 1)), math.ceil(tar / (float(params.get("shard_mb", 256)) * 1e6)))
    tables = n * rates.extract.table_bytes_per_frame + videos.n * rates.extract.table_bytes_per_video
    store = Artifact(tar + shards * (2 * TAR_BLOCK + SHARD_ENTRY_BYTES) + tables, shards + 3)
    return Frames(n, times, videos, width, height, each, shards, store)


def memory_bytes(videos: float, pods: int, rates: Rates) -> float:
    """Peak memory of one part: the list of all videos, and the queue of its own."""
    rate = rates.extract
    queued = math.ceil(videos / pods) * rate.memory_bytes_per_queued
    return rate.memory_bytes + videos * rate.memory_bytes_per_video + queued


def pieces(videos: Videos, params: Mapping[str, Any]) -> int:
    """In how many pieces a video is decoded side by side: more than one where it is long and large."""
    given = {**SPLIT, **params}
    if given["piece_s"] is None or params.get("mode") == "keyframes":
        return 1
    if videos.bytes < given["split_mb"] * 1e6 * videos.n:
        return 1
    return max(1, round(videos.video_s / given["piece_s"]))


def _work(frames: Frames, params: Mapping[str, Any], rates: Rates) -> Work:
    """Decoding is divided among cores by video, or by pieces of long ones; the store is put together by one."""
    rate, videos = rates.extract, frames.videos
    shown = videos.n * videos.video_s * videos.fps
    decode = shown * (rate.source_frame_core_s + videos.width_px * videos.height_px / rate.source_px_per_s)
    if params.get("mode") == "keyframes":
        decode /= rate.keyframe_speed_up
    encode = frames.n * (rate.frame_core_s + frames.width_px * frames.height_px / rate.frame_px_per_s)
    hashing = videos.bytes / rates.machine.hash_bytes_per_s
    pods = int(params.get("parts", 1))
    return Work(
        start_s=rates.machine.start_data_s,
        core_s=videos.n * rate.video_core_s + decode + encode + hashing,
        serial_s=frames.n * rate.assemble_frame_s + 2 * frames.store.bytes / rates.machine.hash_bytes_per_s,
        width=videos.n * pieces(videos, params),
        pods=pods,
        memory_bytes=memory_bytes(videos.n, pods, rates),
        scratch_bytes=frames.n * frames.jpeg_bytes,
        facts={"frames": frames.n, "shards": frames.shards, "bytes_per_frame": frames.store.bytes / frames.n},
    )
