"""One video through ffmpeg: its frames into a file, and a table of their times and places."""

from __future__ import annotations

import signal
import subprocess
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from components.common.errors import ExitCode, StageError
from components.common.ffmpeg import Probe, ffmpeg_exe
from components.common.frame_store_writer import BAD, VideoRow
from components.common.jpeg import split_jpegs
from components.extract_frames.command import build_command
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source
from components.extract_frames.report import Report, read_report, seconds

# What is kept of a frame until the store is written: where its JPEG lies, and its columns.
FRAME = np.dtype(
    [("pack", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("pts_s", "<f8"), ("frame", "<i8"), ("cut", "?")]
)


@dataclass(frozen=True)
class Extracted:
    """A video and its frames in time order.

    Attributes:
        video: the row of videos.parquet.
        frames: FRAME (N,); `pts_s` in seconds from the first frame, `frame` its number in the source at the nominal
            rate (a running number where that is unknown), `cut` whether a hard cut lies just before it.
    """

    video: VideoRow
    frames: NDArray[np.void]


class BadVideoError(Exception):
    """This source gives no frames; the message says why."""


class Writer(Protocol):
    """Takes pictures one after the other."""

    def write(self, data: bytes, /) -> int:
        """Append some bytes; returns how many."""


class Decoded(NamedTuple):
    """What one ffmpeg gave: bytes of each JPEG it wrote, what it said, its exit code."""

    sizes: array[int]
    report: Report
    code: int


class Decoder:
    """Runs ffmpeg for one video per calling thread; `stop` ends those that run and refuses new ones."""

    def __init__(self, params: ExtractParams) -> None:
        self.params = params
        self.exe = ffmpeg_exe()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Called when the stage fails: nothing goes on decoding behind its back."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def extract(self, source: Source, jpegs: Writer) -> Extracted:
        """Decode `source` in one process, append the chosen frames to `jpegs`; offsets count from the first of them.

        The rule for damage: every frame that ffmpeg decodes is kept, up to the end or up to where it gives up. A video
        that yields at least one frame is good, and its reason says "partial: ..." if errors were met while decoding.

        Raises:
            BadVideoError: not one frame, frames without times, or the file was written to meanwhile.
            StageError: ffmpeg was killed from outside.
        """
        before = source.state()
        digest = sha256(source)
        taken = self._copied(source, digest, jpegs)
        if taken is not None:
            if source.state() != before:
                raise BadVideoError(CHANGED)
            return taken
        decoded = self.decode(source, build_command(self.exe, source, self.params), jpegs)
        if source.state() != before:
            raise BadVideoError(CHANGED)
        check(source, decoded)
        report, sizes = decoded.report, np.frombuffer(decoded.sizes, np.int64)
        assert report.probe is not None  # check saw to it
        row = good_row(source, digest, report.probe, reason_of(report.damage, decoded.code))
        ticks = np.array(report.ticks)[: len(sizes)]
        places = laid_out(sizes)
        return Extracted(row, timed(places, ticks, np.array(report.cuts), report.tick_s, row.fps))

    def _copied(self, source: Source, digest: str, jpegs: Writer) -> Extracted | None:
        from components.extract_frames.copies import copied  # it builds upon this module

        try:
            return copied(source, self.params, digest, jpegs)
        except PermissionError:
            raise BadVideoError("permission denied") from None
        except FileNotFoundError:
            raise BadVideoError(CHANGED) from None

    def decode(self, source: Source, command: Sequence[str], jpegs: Writer) -> Decoded:
        """Run ffmpeg and append the pictures it writes to `jpegs`; raises StageError when it was killed from outside.

        ffmpeg gets a session of its own: at Ctrl-C it would end in good order, and half a video would look like a whole
        one. When this process is killed, ffmpeg ends at its next write to the pipe.
        """
        folder = source.path if source.pattern else None
        pipe = subprocess.PIPE
        with (
            ThreadPoolExecutor(1) as listener,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=folder, start_new_session=True
            ) as process,
        ):
            assert process.stdout is not None and process.stderr is not None
            self._running.add(process)
            try:
                heard = listener.submit(read_report, process.stderr)
                if self._stopped:
                    process.kill()
                sizes = array("q", (jpegs.write(jpeg) for jpeg in split_jpegs(process.stdout)))
                report = heard.result()
            except BaseException:
                process.kill()
                raise
            finally:
                self._running.discard(process)
        if process.returncode == -signal.SIGKILL or report.interrupted:
            do = "is there enough memory?"
            raise StageError("ffmpeg was killed", where=source.path, do=do, code=ExitCode.NO_ROOM)
        return Decoded(sizes, report, process.returncode)


CHANGED = "the file changed while it was read"


def bad_row(source: Source, reason: str) -> VideoRow:
    """The row of a source that gives no frames."""
    return VideoRow(key=source.key, path=source.name, status=BAD, reason=_anonymous(source, reason))


def good_row(source: Source, digest: str, header: Probe, reason: str) -> VideoRow:
    """The row of a source that gave frames."""
    return VideoRow(
        key=source.key,
        path=source.name,
        sha256=digest,
        fps=header.fps,
        duration_s=header.duration_s,
        width=header.width,
        height=header.height,
        rotation=header.rotation,
        reason=_anonymous(source, reason),
    )


def sha256(source: Source) -> str:
    """Hash of a source; raises BadVideoError when it cannot be read or is empty."""
    try:
        if source.path.is_file() and source.path.stat().st_size == 0:
            raise BadVideoError("empty file")
        return source.sha256()
    except OSError as error:  # no permission, a link to nothing, a failing disk
        raise BadVideoError((error.strerror or "cannot be read").lower()) from None


def check(source: Source, decoded: Decoded) -> None:
    """Raise BadVideoError unless there are frames and each has a time."""
    sizes, report, code = decoded
    if not sizes:
        if report.container and report.probe is None:
            raise BadVideoError("no video stream")
        raise BadVideoError(report.trouble or report.damage or "no frame could be decoded")
    if code < 0:
        raise BadVideoError(f"ffmpeg crashed on it (signal {-code})")
    told = len(report.ticks)
    if report.probe is None or told < len(sizes) or (told > len(sizes) and code == 0):
        raise BadVideoError(f"{len(sizes)} frames came with {told} times")
    if np.isnan(report.ticks).any():
        raise BadVideoError("frames without times")


def reason_of(damage: str, code: int = 0) -> str:
    """Reason of a good video that was not decoded to the end without an error; empty where it was."""
    if damage:
        return f"partial: {damage}"
    return f"partial: ffmpeg ended with code {code}" if code else ""


def _anonymous(source: Source, reason: str) -> str:
    """No path of this machine in an output: the same videos elsewhere give the same bytes."""
    for path in (f"file:{source.path.absolute()}", str(source.path.absolute()), str(source.path)):
        reason = reason.replace(path, source.name)
    return reason


def laid_out(sizes: NDArray[np.int64]) -> NDArray[np.void]:
    """FRAME (N,) with the places of pictures that lie one behind the other."""
    places = np.zeros(len(sizes), FRAME)
    places["offset"], places["size"] = np.cumsum(sizes) - sizes, sizes
    return places


def timed(
    places: NDArray[np.void],
    ticks: NDArray[np.float64],
    cuts: NDArray[np.float64],
    tick_s: tuple[int, int],
    fps: float | None,
) -> NDArray[np.void]:
    """Fill in times from the first frame, numbers and cuts; a frame that does not move time forward is left out.

    Args:
        places: FRAME (N,) with places and sizes.
        ticks: (N,) time of each frame, in `tick_s` seconds.
        cuts: times of the first frames after cuts.
        tick_s: numerator and denominator.
        fps: nominal rate.
    """
    keep = ticks > np.maximum.accumulate(np.concatenate([[-np.inf], ticks[:-1]]))
    frames, ticks = places[keep], ticks[keep]
    n_cuts = np.searchsorted(np.sort(cuts), ticks, side="right")  # up to and at each frame
    frames["pts_s"] = seconds(ticks - ticks[0], tick_s)
    frames["frame"] = frame_numbers(frames["pts_s"], fps)
    frames["cut"] = np.diff(n_cuts, prepend=n_cuts[:1]) > 0
    return frames


def frame_numbers(pts_s: NDArray[np.float64], fps: float | None) -> NDArray[np.int64]:
    """Numbers at the nominal rate, strictly increasing even where a variable rate puts two frames in one interval."""
    running = np.arange(len(pts_s))
    if fps is None:
        return running
    return np.maximum.accumulate(np.rint(pts_s * fps).astype(np.int64) - running) + running
