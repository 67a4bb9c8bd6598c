"""Long videos in pieces that start at keyframes, decoded side by side: the frames are those of one process.

A piece begins where ffmpeg lands when it seeks, at a keyframe, and ends some frames after the next one began. In these
border frames both decode the same pictures, and tell their checksums: only if all agree does the later piece speak for
itself. Cuts in its first two frames are the earlier piece's (`scdet` compares three pictures), and so are frames shown
before the keyframe but coded after it (open GOPs), and errors met over them. Where a border does not agree it is taken
away: both pieces become one, in the extreme the whole video again.
"""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.common.ffmpeg import ONLY_FILES, Probe
from components.extract_frames.command import (
    LOG,
    SAME_CLOCK,
    TOLERANCE_S,
    Stretch,
    address,
    build_command,
    grid,
    last_from_s,
    needed_extent,
)
from components.extract_frames.config import ExtractParams
from components.extract_frames.extent import Extent
from components.extract_frames.find import Source
from components.extract_frames.report import Report, read_report
from components.extract_frames.video import CHANGED, BadVideoError, Decoder, Writer, check, laid_out

# Formats with an index and with times that ffmpeg takes as they are: in streams it mends jumps by what came before.
SEEKABLE = ("mov", "matroska")
BORDER_FRAMES = 24  # checksums of so many pictures at the nominal rate; ffmpeg's threads lag by fewer
BORDER_S = 1.0  # where the rate is unknown
PROBES = 4  # seeks that are tried at a time: each opens the file anew, and other workers may be doing the same
SETTLED = 3  # pictures from which on `scdet` and the decoder know no more of what was before
_PACKET = re.compile(rb"^0, *-?\d+, *(-?\d+),", re.MULTILINE)
_CLOCK = re.compile(rb"^#tb 0: (\d+)/(\d+)", re.MULTILINE)


class Piece(NamedTuple):
    """A stretch of a video: [start, until) in ticks, and where to seek to get there; None: the video's ends."""

    seek_s: float | None
    start: int | None
    until: int | None


@dataclass(frozen=True)
class Plan:
    """How a long video is cut.

    Attributes:
        first: time of its first frame, in ticks.
        tick_s: the unit of its clock, numerator and denominator.
        border: how long a border is, in ticks.
        pieces: in order, without gaps; one: it is not cut.
        state: size and time of the file when it was planned.
        header: what its container says.
        extent: the whole video's, where the choice of frames depends on it.
    """

    first: int
    tick_s: tuple[int, int]
    border: int
    pieces: tuple[Piece, ...]
    state: tuple[int, ...]
    header: Probe
    extent: Extent | None = None

    @property
    def first_s(self) -> float:
        """Time of the first frame as ffmpeg's filters reckon it."""
        return self.first * (self.tick_s[0] / self.tick_s[1])


@dataclass(frozen=True)
class PieceFrames:
    """What a piece gave.

    Attributes:
        frames: FRAME (N,), with places and sizes alone.
        ticks: int64 (N,), time of each.
        cuts: int64, times of first frames after cuts.
        border: (ticks, checksum) of each picture in its borders.
        damage: first error of its own; empty without.
    """

    frames: NDArray[np.void]
    ticks: NDArray[np.int64]
    cuts: NDArray[np.int64]
    border: tuple[tuple[int, str], ...]
    damage: str


def plan_pieces(source: Source, decoder: Decoder) -> Plan | None:
    """Cut a video into pieces of about `piece_s` seconds; None where that is not worth it or not safe."""
    params, state = decoder.params, source.state()
    if params.piece_s is None or params.mode == "keyframes" or source.pattern or source.size < params.split_mb * 1e6:
        return None
    report = _opening(source, decoder)
    if report is None or report.probe is None or report.container.split(",")[0] not in SEEKABLE:
        return None
    n = round((report.probe.duration_s or 0) / params.piece_s)
    if n < 2:
        return None
    first, (num, den) = int(report.ticks[0]), report.tick_s
    assert report.probe.duration_s is not None
    wanted = [first * num / den + number * report.probe.duration_s / n for number in range(1, n)]
    with ThreadPoolExecutor(PROBES) as pool:
        landed = list(pool.map(lambda seek_s: _lands_at(source, decoder, seek_s, report.tick_s), wanted))
    starts: dict[int, float] = {}
    for seek_s, start in zip(wanted, landed, strict=True):
        if start is not None and start > max(starts, default=first):
            starts[start] = seek_s
    ends = [*starts, None]
    pieces = [Piece(None, None, ends[0]), *(Piece(starts[a], a, b) for a, b in pairwise(ends) if a is not None)]
    border_s = BORDER_FRAMES / report.probe.fps if report.probe.fps else BORDER_S
    border, extent = max(1, round(border_s * den / num)), needed_extent(decoder.exe, source, params)
    return Plan(first, report.tick_s, border, tuple(pieces), state, report.probe, extent)


def stretch_of(piece: Piece, plan: Plan) -> Stretch:
    """What ffmpeg is told of a piece."""
    borders = tuple((at, at + plan.border) for at in (piece.start, piece.until) if at is not None)
    end = None if piece.until is None else piece.until + plan.border
    return Stretch(piece.seek_s, end, plan.first_s, borders, plan.extent)


def decode_piece(source: Source, piece: Piece, plan: Plan, decoder: Decoder, jpegs: Writer) -> PieceFrames | None:
    """Decode one piece, append its frames to `jpegs`; None where it gives none or not in good order.

    Raises:
        BadVideoError: the file is not the one that was planned for.
        StageError: ffmpeg was killed from outside.
    """
    command = build_command(decoder.exe, source, decoder.params, stretch_of(piece, plan))
    decoded = decoder.decode(source, command, jpegs)
    if source.state() != plan.state:
        raise BadVideoError(CHANGED)
    report, sizes = decoded.report, np.frombuffer(decoded.sizes, np.int64)
    try:
        check(source, decoded)
    except BadVideoError:
        return None
    if decoded.code or report.tick_s != plan.tick_s or len(sizes) != len(report.ticks):
        return None
    ticks, cuts = (np.array(values).astype(np.int64) for values in (report.ticks, report.cuts))
    damage = report.damage if piece.start is None else report.late
    return PieceFrames(laid_out(sizes), ticks, cuts, tuple(report.border), damage)


def broken_borders(plan: Plan, given: Sequence[PieceFrames | None]) -> list[int]:
    """Which borders do not hold: border k lies between pieces k and k + 1."""
    broken = []
    for k, (before, after) in enumerate(pairwise(given)):
        start = plan.pieces[k + 1].start
        assert start is not None
        seen = [_pictures(each, start, start + plan.border) for each in (before, after)]
        if seen[0] is None or seen[0] != seen[1] or len(seen[0]) < SETTLED or seen[0][0][0] != start:
            broken.append(k)
    return broken


def without(plan: Plan, borders: Sequence[int]) -> Plan:
    """The plan with the pieces on both sides of each of `borders` made one."""
    pieces: list[Piece] = []
    for number, piece in enumerate(plan.pieces):
        if number - 1 in borders:
            pieces[-1] = pieces[-1]._replace(until=piece.until)
        else:
            pieces.append(piece)
    return dataclasses.replace(plan, pieces=tuple(pieces))


def joined(
    plan: Plan, given: Sequence[PieceFrames], params: ExtractParams
) -> tuple[NDArray[np.void], NDArray[np.int64], NDArray[np.int64]]:
    """(places, ticks, cuts) of the frames that one process would have taken, of pieces whose borders hold.

    Each piece speaks for the frames from its keyframe up to the next one; its first frame is left out where the cell
    it lies in has given one to the piece before, unless it is the video's last one, and that is wanted.
    """
    places, ticks, cuts = [], [], []
    last = -np.inf
    for number, (piece, own) in enumerate(zip(plan.pieces, given, strict=True)):
        keep = _between(own.ticks, piece.start, piece.until)
        cells = _cells(own.ticks, plan, params)
        keep &= (cells > last) | _is_last(own.ticks, plan, params)
        last = max(last, cells[keep].max(initial=-np.inf))
        places.append(own.frames[keep])
        ticks.append(own.ticks[keep])
        # Cuts at the first two pictures are the earlier piece's: this one does not know what was before them.
        after = _settled(given[number], piece.start)
        until = _settled(given[number + 1], piece.until) if piece.until is not None else None
        cuts.append(own.cuts[_between(own.cuts, after, until)])
    return np.concatenate(places), np.concatenate(ticks), np.concatenate(cuts)


def _settled(piece: PieceFrames, start: int | None) -> int | None:
    """Time of the first picture of a piece at which its cuts are right."""
    if start is None:
        return None
    return next(at for number, at in enumerate(at for at, _ in piece.border if at >= start) if number == SETTLED - 1)


def _pictures(piece: PieceFrames | None, low: int, high: int) -> list[tuple[int, str]] | None:
    return None if piece is None else [entry for entry in piece.border if low <= entry[0] < high]


def _between(values: NDArray[np.int64], low: int | None, high: int | None) -> NDArray[np.bool_]:
    inside = np.ones(len(values), bool)
    if low is not None:
        inside &= values >= low
    return inside if high is None else inside & (values < high)


def _cells(ticks: NDArray[np.int64], plan: Plan, params: ExtractParams) -> NDArray[np.float64]:
    """The cell of the time grid in which each frame lies, by the arithmetic of ffmpeg's `select`."""
    since = ticks * (plan.tick_s[0] / plan.tick_s[1]) - plan.first_s + TOLERANCE_S
    operator, number = grid(params, plan.extent)
    return np.floor(since * number if operator == "*" else since / number)


def _is_last(ticks: NDArray[np.int64], plan: Plan, params: ExtractParams) -> NDArray[np.bool_]:
    """Which frames are taken because nothing comes after them, as `select` is told."""
    if not params.last_frame or plan.extent is None:
        return np.zeros(len(ticks), bool)
    return ticks * (plan.tick_s[0] / plan.tick_s[1]) >= last_from_s(plan.extent)


def _opening(source: Source, decoder: Decoder) -> Report | None:
    """The header and the first frame's time; None where there is no such frame."""
    command = [
        *_reading(source, decoder, ["-threads", "1"]),
        "-filter_complex",
        "[0:V:0]metadata@mark=add:key=taken:value=1,metadata@taken=print:key=taken",
    ]
    command = [*command, "-frames:v", "1", "-f", "null", "-"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stderr
    report = read_report(io.BytesIO(said))
    return report if report.ticks and not np.isnan(report.ticks[0]) else None


def _lands_at(source: Source, decoder: Decoder, seek_s: float, tick_s: tuple[int, int]) -> int | None:
    """Time of the keyframe at which ffmpeg starts when it is told to seek, in ticks; None where it says nothing."""
    command = _reading(source, decoder, ["-ss", repr(seek_s), "-noaccurate_seek"])
    command = [*command, "-map", "0:V:0", "-c", "copy", "-frames:v", "1", "-f", "framecrc", "-"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    clock, packet = _CLOCK.search(said), _PACKET.search(said)
    if clock is None or packet is None or (int(clock[1]), int(clock[2])) != tick_s:
        return None
    return int(packet[1])


def _reading(source: Source, decoder: Decoder, options: Sequence[str]) -> list[str]:
    safe = [part for name, value in ONLY_FILES.items() for part in (f"-{name}", value)]
    return [decoder.exe, *LOG, *SAME_CLOCK, *safe, "-fflags", "+discardcorrupt", *options, "-i", address(source)]
