"""When a video's pictures begin and end, from its packets: nothing is decoded."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from components.common.ffmpeg import ONLY_FILES
from components.extract_frames.find import Source

_TIME_BASE = re.compile(rb"#tb 0: (\d+)/(\d+)")


@dataclass(frozen=True)
class Extent:
    """Times of the first and the last picture, in the clock of ffmpeg's filters, and how long the last is shown."""

    first_s: float
    last_s: float
    step_s: float

    @property
    def length_s(self) -> float:
        """From the first picture to the end of the last."""
        return self.last_s - self.first_s + self.step_s


def extent_of(exe: str, source: Source, source_fps: float | None) -> Extent | None:
    """The extent of a file or of a folder of images; None where the container tells no times."""
    if source.pattern:
        assert source_fps is not None
        n = sum(1 for _ in source.path.glob(source.pattern))
        return Extent(0.0, (n - 1) / source_fps, 1 / source_fps) if n else None
    options = [part for name, value in ONLY_FILES.items() for part in (f"-{name}", value)]
    read = [
        exe,
        "-v",
        "quiet",
        "-nostdin",
        *options,
        "-fflags",
        "+discardcorrupt",
        "-i",
        f"file:{source.path.absolute()}",
    ]
    command = [*read, "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-"]
    return parse(subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout)


def parse(listing: bytes) -> Extent | None:
    """Read ffmpeg's `framecrc`: a line a packet, `stream, dts, pts, duration, size, checksum`, in ticks."""
    base = _TIME_BASE.search(listing)
    ticks = []
    for line in listing.splitlines():
        cells = line.split(b",")
        if not line.startswith(b"#") and len(cells) >= 5 and cells[2].strip().lstrip(b"-").isdigit():
            ticks.append((int(cells[2]), int(cells[3])))
    if base is None or not ticks:
        return None
    tick_s = int(base[1]) / int(base[2])
    (first, _), (last, shown) = min(ticks), max(ticks)
    mean = (last - first) / (len(ticks) - 1) if len(ticks) > 1 else 1 / tick_s
    return Extent(first * tick_s, last * tick_s, (shown or mean) * tick_s)
