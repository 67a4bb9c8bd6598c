"""Reads what ffmpeg tells on standard error while it extracts: the header, the time of each frame, cuts, damage."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from components.common.ffmpeg import Probe, parse_report

_TIME_BASE = re.compile(rb"showinfo\S* @ \S+\] \[info\] config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(rb"showinfo\S* @ \S+\] \[info\] n: *\d+ pts: *(\S+)")
_CUT = re.compile(rb"metadata\S* @ \S+\] \[info\] frame:\d+ +pts:(\S+)")
_ERROR = re.compile(rb"^(?:\[[^\]]* @ \S+\] )*\[(?:error|fatal|panic)\] (.*)")
_LEVEL = re.compile(rb"^((?:\[[^\]]* @ \S+\] )?)\[\w+\] ")
_DECODING = b"Stream mapping:"
_OPENED = b"Input #0"
_INTERRUPTED = b"Exiting normally, received signal"
HEADER_LINES = 2000  # a file with more lines of metadata than this keeps the rest to itself
REASON_CHARS = 200


@dataclass
class Report:
    """What was said about one video.

    Attributes:
        times_s: time of each frame in the source's clock; NaN where the container has none.
        cuts_s: time of the first frame after each hard cut, in the same clock.
        opened: the container was recognised.
        trouble: the first error while opening.
        damage: the first error while decoding.
        interrupted: ffmpeg was told to end by a signal; what it wrote is not the whole video.
    """

    times_s: array[float] = field(default_factory=lambda: array("d"))
    cuts_s: array[float] = field(default_factory=lambda: array("d"))
    opened: bool = False
    trouble: str = ""
    damage: str = ""
    interrupted: bool = False
    probe: Probe | None = None


def read_report(lines: Iterable[bytes]) -> Report:
    """Parse ffmpeg's log as it comes, holding no more of it than its header.

    Times are counted in whole ticks of the stream's time base: the seconds ffmpeg prints have six digits only.
    """
    report, header, decoding, tick_s = Report(), list[bytes](), False, (0, 1)
    for line in lines:
        if match := _FRAME.search(line):
            report.times_s.append(_seconds(match[1], tick_s))
        elif match := _CUT.search(line):
            report.cuts_s.append(_seconds(match[1], tick_s))
        elif match := _TIME_BASE.search(line):
            tick_s = int(match[1]), int(match[2])
        elif match := _ERROR.search(line):
            said = match[1].decode("utf-8", "replace").strip()[:REASON_CHARS]
            report.damage = report.damage or (said if decoding else "")
            report.trouble = report.trouble or ("" if decoding else said)
        elif _INTERRUPTED in line:
            report.interrupted = True
        elif not decoding and len(header) < HEADER_LINES:
            header.append(_LEVEL.sub(rb"\1", line))
            report.opened |= _OPENED in line
            decoding = _DECODING in line
    report.probe = parse_report(b"".join(header).decode("utf-8", "replace"))
    return report


def _seconds(ticks: bytes, tick_s: tuple[int, int]) -> float:
    try:
        return int(ticks) * tick_s[0] / tick_s[1]
    except ValueError:  # NOPTS: a frame without a time
        return float("nan")
