"""Real H.264 files: frames go through a pipe into ffmpeg."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from components.common.errors import ExitCode, StageError
from components.common.ffmpeg import ffmpeg_exe
from components.download.world.config import WorldParams


def write_video(frames: Iterable[NDArray[np.uint8]], file: Path, params: WorldParams) -> int:
    """Encode BGR frames (h, w, 3) to an .mp4; returns how many there were.

    One thread and no time of writing in the header: the same frames give the same bytes.
    """
    count = 0
    with tempfile.TemporaryFile() as words:
        # a broken pipe means that ffmpeg has ended; why is in its own words
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(_command(file, params), stdin=subprocess.PIPE, stderr=words) as ffmpeg,
        ):
            assert ffmpeg.stdin is not None
            for frame in frames:
                # planar 4:2:0 is half the bytes of BGR through the pipe, and spares ffmpeg the conversion
                ffmpeg.stdin.write(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).data)
                count += 1
        words.seek(0)
        said = " ".join(words.read().decode(errors="replace").split())
    if ffmpeg.returncode:
        code = ExitCode.NO_ROOM if "No space left" in said else ExitCode.CRASH
        raise StageError(f"ffmpeg could not write a video, {said}", where=file.name, code=code)
    return count


def _command(file: Path, params: WorldParams) -> list[str]:
    keyframe = max(1, round(params.keyframe_s * params.fps))
    return [
        ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
        "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{params.width_px}x{params.height_px}",
        "-r", f"{params.fps:g}", "-i", "pipe:0",
        "-c:v", "libx264", "-preset", params.preset, "-crf", str(params.crf), "-g", str(keyframe), "-threads", "1",
        "-colorspace", "smpte170m", "-color_range", "tv",  # what cv2's I420 is
        "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-f", "mp4", str(file),
    ]  # fmt: skip
