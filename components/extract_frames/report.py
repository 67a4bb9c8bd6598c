"""Reads what ffmpeg tells on standard error while it extracts: the header, the time of each frame, cuts, damage."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.common.ffmpeg import Probe, parse_report

_TIME_BASE = re.compile(
    rb"\[graph .* input from stream .* @ \S+\] \[verbose\] w:.* tb:(\d+)/(\d+)|"
    rb"showinfo@border @ \S+\] \[info\] config in time_base: (\d+)/(\d+)"
)
# `showinfo` writes a line in pieces, between which other threads put theirs.
_BORDER = re.compile(rb"showinfo@border @ \S+\] \[info\] n: *\d+ pts: *(-?\d+) ")
_CHECKSUM = re.compile(rb"checksum:(\w+) plane_checksum:\[")
_FRAME = re.compile(rb"metadata@taken @ \S+\] \[info\] frame:\d+ +pts:(\S+)")
_CUT = re.compile(rb"metadata@cut @ \S+\] \[info\] frame:\d+ +pts:(\S+)")
_ERROR = re.compile(rb"^(?:\[[^\]]* @ \S+\] )*\[(?:error|fatal|panic)\] (.*)")
_LEVEL = re.compile(rb"^((?:\[[^\]]* @ \S+\] )?)\[\w+\] ")
_DECODING = b"Stream mapping:"
_OPENED = re.compile(rb"Input #0, (\S+), from")
_INTERRUPTED = b"Exiting normally, received signal"
HEADER_LINES = 2000  # a file with more lines of metadata than this keeps the rest to itself
REASON_CHARS = 200


@dataclass
class Report:
    """What was said about one video.

    Attributes:
        ticks: time of each frame in the source's clock, in `tick_s`; NaN where the container has none.
        cuts: time of the first frame after each hard cut, in the same clock.
        border: times and checksums of the decoded pictures around the ends of a piece (see pieces.py).
        tick_s: numerator and denominator of the clock's unit in seconds.
        container: ffmpeg's names of the format; empty where it was not recognised.
        trouble: the first error while opening.
        early: the first error while decoding, before a border picture was seen.
        late: the first one after that.
        interrupted: ffmpeg was told to end by a signal; what it wrote is not the whole video.
    """

    ticks: array[float] = field(default_factory=lambda: array("d"))
    cuts: array[float] = field(default_factory=lambda: array("d"))
    border: list[tuple[int, str]] = field(default_factory=list)
    tick_s: tuple[int, int] = (0, 1)
    container: str = ""
    trouble: str = ""
    early: str = ""
    late: str = ""
    interrupted: bool = False
    probe: Probe | None = None

    @property
    def damage(self) -> str:
        """The first error while decoding."""
        return self.early or self.late

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Time of each frame in seconds of the source's clock."""
        return seconds(np.array(self.ticks), self.tick_s)


def seconds(ticks: NDArray[np.float64], tick_s: tuple[int, int]) -> NDArray[np.float64]:
    """Ticks in seconds."""
    return ticks * tick_s[0] / tick_s[1]


def read_report(lines: Iterable[bytes]) -> Report:
    """Parse ffmpeg's log as it comes, holding no more of it than its header.

    Times are counted in whole ticks of the stream's time base: the seconds ffmpeg prints have six digits only.
    """
    report, header, decoding, picture = Report(), list[bytes](), False, 0
    for line in lines:
        if match := _BORDER.search(line):
            picture = int(match[1])
        if match := _CHECKSUM.search(line):
            report.border.append((picture, match[1].decode()))
        elif match := _FRAME.search(line):
            report.ticks.append(_ticks(match[1]))
        elif match := _CUT.search(line):
            report.cuts.append(_ticks(match[1]))
        elif match := _TIME_BASE.search(line):
            report.tick_s = int(match[1] or match[3]), int(match[2] or match[4])
        elif match := _ERROR.search(line):
            _note(report, match[1].decode("utf-8", "replace").strip()[:REASON_CHARS], decoding)
        elif _INTERRUPTED in line:
            report.interrupted = True
        elif not decoding and len(header) < HEADER_LINES:
            header.append(_LEVEL.sub(rb"\1", line))
            if match := _OPENED.search(line):
                report.container = match[1].decode("utf-8", "replace")
            decoding = _DECODING in line
    report.probe = parse_report(b"".join(header).decode("utf-8", "replace"))
    return report


def _note(report: Report, said: str, decoding: bool) -> None:
    if not decoding:
        report.trouble = report.trouble or said
    elif report.border:
        report.late = report.late or said
    else:
        report.early = report.early or said


def _ticks(text: bytes) -> float:
    try:
        return int(text)
    except ValueError:  # NOPTS: a frame without a time
        return float("nan")
