"""One video through ffmpeg: its frames into a file, and a table of their times and places."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.common.errors import ExitCode, StageError
from components.common.ffmpeg import ffmpeg_exe
from components.common.frame_store_writer import BAD, VideoRow
from components.common.jpeg import split_jpegs
from components.extract_frames.command import build_command
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source
from components.extract_frames.report import Report, read_report


@dataclass(frozen=True)
class Extracted:
    """Frames of one video in time order; columns of equal length.

    Attributes:
        video: the row of videos.parquet.
        offset, size: bytes of each JPEG in the file that was written.
        pts_s: seconds from the first frame.
        frame: number of the frame in the source at its nominal rate; running number where the rate is unknown.
        cut: a hard cut lies between this frame and the one before.
    """

    video: VideoRow
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    frame: NDArray[np.int64]
    cut: NDArray[np.bool_]


class BadVideoError(Exception):
    """This source gives no frames; the message says why."""


class Decoder:
    """Runs ffmpeg for one video per calling thread; `stop` ends those that run and refuses new ones."""

    def __init__(self, params: ExtractParams) -> None:
        self.params = params
        self._exe = ffmpeg_exe()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Called when the stage fails: nothing goes on decoding behind its back."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def extract(self, source: Source, jpegs: BinaryIO) -> Extracted:
        """Decode `source`, append the chosen frames to `jpegs`.

        The rule for damage: every frame that ffmpeg decodes is kept, up to the end or up to where it gives up. A video
        that yields at least one frame is good, and its reason says "partial: ..." if errors were met while decoding.

        Raises:
            BadVideoError: not one frame, or frames without times.
            StageError: ffmpeg was killed from outside.
        """
        digest = _sha256(source)
        sizes, report, code = self._run(source, jpegs)
        if code == -signal.SIGKILL or report.interrupted:
            do = "is there enough memory?"
            raise StageError("ffmpeg was killed", where=source.path, do=do, code=ExitCode.NO_ROOM)
        _check(source, sizes, report, code)
        return _columns(_good_row(source, digest, report, code), np.array(sizes, np.int64), report)

    def _run(self, source: Source, jpegs: BinaryIO) -> tuple[list[int], Report, int]:
        """(bytes of each frame, what ffmpeg said, its exit code).

        ffmpeg gets a session of its own: at Ctrl-C it would end in good order, and half a video would look like a whole
        one. When this process is killed, ffmpeg ends at its next write to the pipe.
        """
        command = build_command(self._exe, source, self.params)
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
                sizes = [jpegs.write(jpeg) for jpeg in split_jpegs(process.stdout)]
                report = heard.result()
            except BaseException:
                process.kill()
                raise
            finally:
                self._running.discard(process)
        return sizes, report, process.returncode


def bad_row(source: Source, reason: str) -> VideoRow:
    """The row of a source that gives no frames."""
    return VideoRow(key=source.key, path=source.name, status=BAD, reason=_anonymous(source, reason))


def _good_row(source: Source, digest: str, report: Report, code: int) -> VideoRow:
    assert report.probe is not None  # _check saw to it
    header = report.probe
    return VideoRow(
        key=source.key,
        path=source.name,
        sha256=digest,
        fps=header.fps,
        duration_s=header.duration_s,
        width=header.width,
        height=header.height,
        rotation=header.rotation,
        reason=_anonymous(source, _partial(report, code)),
    )


def _sha256(source: Source) -> str:
    try:
        if source.path.is_file() and source.path.stat().st_size == 0:
            raise BadVideoError("empty file")
        return source.sha256()
    except OSError as error:  # no permission, a link to nothing, a failing disk
        raise BadVideoError((error.strerror or "cannot be read").lower()) from None


def _check(source: Source, sizes: list[int], report: Report, code: int) -> None:
    """Raise BadVideoError unless there are frames and each has a time."""
    if not sizes:
        if report.opened and report.probe is None:
            raise BadVideoError("no video stream")
        raise BadVideoError(report.trouble or report.damage or "no frame could be decoded")
    if code < 0:
        raise BadVideoError(f"ffmpeg crashed on it (signal {-code})")
    told = len(report.times_s)
    if report.probe is None or told < len(sizes) or (told > len(sizes) and code == 0):
        raise BadVideoError(f"{len(sizes)} frames came with {told} times")
    if np.isnan(report.times_s).any():
        raise BadVideoError("frames without times")


def _partial(report: Report, code: int) -> str:
    if report.damage:
        return f"partial: {report.damage}"
    return f"partial: ffmpeg ended with code {code}" if code else ""


def _anonymous(source: Source, reason: str) -> str:
    """No path of this machine in an output: the same videos elsewhere give the same bytes."""
    for path in (f"file:{source.path.absolute()}", str(source.path.absolute()), str(source.path)):
        reason = reason.replace(path, source.name)
    return reason


def _columns(video: VideoRow, sizes: NDArray[np.int64], report: Report) -> Extracted:
    """Times from the first frame, numbers, cuts; a frame that does not move time forward is left out."""
    times = np.array(report.times_s)[: len(sizes)]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    before = np.maximum.accumulate(np.concatenate([[-np.inf], times[:-1]]))
    keep = times > before
    times = times[keep]
    cuts = np.searchsorted(np.sort(np.array(report.cuts_s)), times, side="right")  # cuts up to and at each frame
    pts_s = times - times[0]
    return Extracted(
        video=video,
        offset=offsets[keep],
        size=sizes[keep],
        pts_s=pts_s,
        frame=frame_numbers(pts_s, video.fps),
        cut=np.diff(cuts, prepend=cuts[:1]) > 0,
    )


def frame_numbers(pts_s: NDArray[np.float64], fps: float | None) -> NDArray[np.int64]:
    """Numbers at the nominal rate, strictly increasing even where a variable rate puts two frames in one interval."""
    running = np.arange(len(pts_s))
    if fps is None:
        return running
    return np.maximum.accumulate(np.rint(pts_s * fps).astype(np.int64) - running) + running
