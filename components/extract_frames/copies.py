"""Frames that are there already: JPEG files of the wanted size are taken as they are, not decoded and encoded again.

Nothing is decoded, so that what only a decoder finds (bits that were changed within a picture) is found later.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.frame_store_writer import VideoRow
from components.common.jpeg import plain_size
from components.extract_frames.command import TOLERANCE_S, grid
from components.extract_frames.config import ExtractParams
from components.extract_frames.extent import Extent
from components.extract_frames.find import Source
from components.extract_frames.video import Extracted, Writer, laid_out, timed

MAX_TERM = 1_001_000  # to which ffmpeg rounds a rate as a fraction


def copied(source: Source, params: ExtractParams, digest: str, jpegs: Writer) -> Extracted | None:
    """The frames of a folder, its files appended to `jpegs`; None where one has to be decoded, nothing is written then.

    The choice of frames and their times are those of ffmpeg. Decoded are pictures that are larger than wanted (or
    smaller, with `upscale`), progressive, grey, of four colours, with camera data (they may lie on their side) or cut
    short, and all where cuts are looked for.

    Args:
        digest: SHA-256 of the source.
    """
    files = _files(source, params)
    if files is None:
        return None
    rate = Fraction(params.source_fps or 0).limit_denominator(MAX_TERM)
    numbers = _chosen(len(files), params, rate)
    sizes = {plain_size(files[number].read_bytes()) for number in numbers.tolist()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None or not _as_wanted(min(size), params):
        return None
    bytes_each = np.array([jpegs.write(files[number].read_bytes()) for number in numbers.tolist()], np.int64)
    fps = float(rate)
    row = VideoRow(
        source.key, source.name, digest, fps, round(len(files) / fps, 2), width=size[1], height=size[0]
    )  # the length as ffmpeg tells it
    ticks, tick_s = numbers.astype(np.float64), (rate.denominator, rate.numerator)
    return Extracted(row, timed(laid_out(bytes_each), ticks, np.zeros(0), tick_s, fps))


def _files(source: Source, params: ExtractParams) -> list[Path] | None:
    """The files in ffmpeg's order; None where they are not to be copied whatever they hold."""
    if source.pattern is None or not source.pattern.lower().endswith((".jpg", ".jpeg")):
        return None
    if params.cuts is not None or params.mode == "keyframes" or params.source_fps is None:
        return None
    return sorted(source.path.glob(source.pattern), key=lambda file: os.fsencode(file.name)) or None


def _as_wanted(short_side: int, params: ExtractParams) -> bool:
    if params.upscale:
        return short_side == params.short_side_px
    return short_side <= params.short_side_px


def _chosen(n: int, params: ExtractParams, rate: Fraction) -> NDArray[np.int64]:
    """The first frame of each cell of the time grid, as `select_expression` takes them, and the last if wanted."""
    seconds = np.arange(n) * (rate.denominator / rate.numerator)
    operator, number = grid(params, Extent(0.0, float(seconds[-1]), float(1 / rate)))
    since = seconds + TOLERANCE_S
    cells = np.floor(since * number if operator == "*" else since / number)
    first = np.diff(cells, prepend=-1.0) > 0
    first[-1] |= params.last_frame
    return np.flatnonzero(first)
