"""Where ffmpeg is, and what it says about a file.

`ffprobe` does not ship with the packaged binary, so facts are read from ffmpeg's own report: the lines it writes to
standard error before decoding (the same in 5.1 and 9.0, which the tests were run with).
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import ExitCode, StageError

# Containers a video may come in. ffmpeg guesses by content: without this list a playlist or a text file named .mp4
# would be opened as what it is, and could make ffmpeg read other files or addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,mjpeg,m4v,mxf,dv,ivf,wtv,rm,nut,image2"
# Input options that keep ffmpeg to video containers on this machine's disk.
ONLY_FILES = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_STREAM = re.compile(r"Stream #0:\d+[^:\n]*: Video: (\w+).*?, (\d+)x(\d+)(?P<rest>[^\n]*)")
_RATE = re.compile(r"([\d.]+)(k?) fps")
_ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)  # the spelling changed
_ATTACHED = "(attached pic)"


@dataclass(frozen=True)
class Probe:
    """What the container says of its first video stream that is no cover picture (ffmpeg's `0:V:0`).

    Attributes:
        codec: ffmpeg's name of the codec.
        width, height: pixels as coded, before rotation.
        fps: nominal frame rate; None when the container states none.
        duration_s: seconds; None when unknown.
        rotation: clockwise degrees the pictures are turned for display (0, 90, 180 or 270 as a rule).
    """

    codec: str
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    rotation: int


@functools.cache
def ffmpeg_exe() -> str:
    """The system's ffmpeg if there is one on PATH, else the binary that ships with imageio-ffmpeg."""
    system = shutil.which("ffmpeg")
    if system:
        return system
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        do = "install ffmpeg, or the package imageio-ffmpeg that ships it"
        raise StageError("no ffmpeg on this machine", do=do, code=ExitCode.NO_ROOM) from None


def probe(file: Path) -> Probe:
    """Read the header of a video; raises StageError with ffmpeg's own words when there is none to read."""
    if not file.exists():
        raise StageError("no such video", where=file)
    command = [ffmpeg_exe(), "-hide_banner", "-nostdin", *_options(ONLY_FILES), "-i", f"file:{file}"]
    report = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
    found = parse_report(report)
    if found is None:
        lines = [line for line in report.splitlines() if line.strip() and "At least one output" not in line]
        reason = lines[-1].replace(f"file:{file}", file.name).strip() if lines else "no video stream"
        raise StageError(f"not a readable video, {reason}", where=file)
    return found


def parse_report(report: str) -> Probe | None:
    """The decoded stream's facts in what ffmpeg wrote to standard error, None when it found no video stream."""
    report = report.split("Stream mapping:")[0]  # below it, streams are those that are written
    stream = next((m for m in _STREAM.finditer(report) if _ATTACHED not in m["rest"]), None)
    if stream is None:
        return None
    details = report[stream.end() :].split("Stream #", 1)[0]
    rate, turn = _RATE.search(stream["rest"]), _ROTATION.search(details)
    return Probe(
        codec=stream[1],
        width=int(stream[2]),
        height=int(stream[3]),
        fps=_rate(rate),
        duration_s=_duration(_DURATION.search(report)),
        rotation=round(-float(turn[1])) % 360 if turn else 0,
    )


def _options(options: dict[str, str]) -> list[str]:
    return [part for name, value in options.items() for part in (f"-{name}", value)]


def _rate(match: re.Match[str] | None) -> float | None:
    if match is None:
        return None
    fps = float(match[1]) * (1000 if match[2] else 1)
    ntsc = round(fps) * 1000 / 1001  # 29.97 is printed for 30000/1001
    return ntsc if fps != round(fps) and abs(fps - ntsc) < 0.006 else fps


def _duration(match: re.Match[str] | None) -> float | None:
    return None if match is None else 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
