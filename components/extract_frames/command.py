"""The ffmpeg command of one video.

Frames are thinned before they are scaled: 285 source frames a second against 199 the other way round (720p H.264, one
core, 307 for decoding alone). They are thinned by `select` and not by the `fps` filter: that one moves frames onto a
regular grid and repeats them where the source is slower, so that their true times are lost and a "pair" may be one
picture twice. Here every frame keeps the time at which it is shown in the source, and none comes twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from components.common.ffmpeg import ONLY_FILES
from components.extract_frames.config import ExtractParams
from components.extract_frames.extent import Extent, extent_of
from components.extract_frames.find import Source

# Matroska, FLV and ASF round times to a millisecond, at the first frame and at this one: a frame meant for a cell of
# the time grid may lie so much before its border. Below half a frame's time up to 450 frames a second.
TOLERANCE_S = 0.0011
SAME_CLOCK = ("-copyts", "-start_at_zero")  # a process that seeks tells the times that one from the beginning tells
QUIET = ["-hide_banner", "-nostdin", "-nostats", "-loglevel"]
LOG = [*QUIET, "level+verbose"]  # verbose: the unit of the video's clock is told
PIECE_LOG = [*QUIET, "level+info"]


class Stretch(NamedTuple):
    """What one process decodes of a long video; times in ticks of the video's clock (see pieces.py).

    Attributes:
        seek_s: where ffmpeg is told to start; it does so at the keyframe before. None: at the beginning.
        end: it stops before this frame. None: at the end.
        first_s: time of the video's first frame, from which the cells are counted.
        borders: [from, to) of the times at which checksums of the decoded pictures are told.
        extent: the whole video's, see `needed_extent`.
    """

    seek_s: float | None
    end: int | None
    first_s: float
    borders: tuple[tuple[int, int], ...]
    extent: Extent | None = None


def build_command(exe: str, source: Source, params: ExtractParams, stretch: Stretch | None = None) -> list[str]:
    """Arguments that decode `source` on one thread and write the chosen frames as JPEGs to standard output.

    Times, cuts and damage are told on standard error (see report.py). Rotation metadata is applied by ffmpeg; pixels
    that are not square stay so.
    """
    import ffmpeg

    options = {"c:v": "mjpeg", "q:v": params.quality, "flags:v": "+bitexact", "threads": 1, "fps_mode": "passthrough"}
    stream = ffmpeg.input(address(source), **_input_options(source, params, stretch))["V:0"]
    if stretch is None:
        taken = _taken(stream, params, needed_extent(exe, source, params), "start_t")
        output = ffmpeg.output(taken, "pipe:1", format="image2pipe", **options).global_args(*LOG)
    else:
        if stretch.end is not None:
            stream = stream.filter("trim", end_pts=stretch.end)
        both = stream.split()
        inside = "+".join(f"gte(pts,{low})*lt(pts,{high})" for low, high in stretch.borders)
        border = both[0].filter("select", inside).filter("showinfo@border", checksum=1)
        taken = _taken(both[1], params, stretch.extent, f"({stretch.first_s!r})")
        output = ffmpeg.merge_outputs(
            ffmpeg.output(taken, "pipe:1", format="image2pipe", **options),
            ffmpeg.output(border, "-", format="null", fps_mode="passthrough"),
        ).global_args(*PIECE_LOG, *SAME_CLOCK)
    return [str(part) for part in ffmpeg.compile(output.global_args("-filter_complex_threads", "1"), cmd=exe)]


def _taken(stream: Any, params: ExtractParams, extent: Extent | None, start: str) -> Any:
    """The frames to take, thinned, then scaled; cuts are looked for before."""
    if params.cuts is not None:
        stream = stream.filter("scdet", threshold=params.cuts.threshold)
        stream = stream.filter("metadata@cut", mode="print", key="lavfi.scd.time")
    width, height = scale_expressions(params.short_side_px, params.upscale)
    stream = stream.filter("select", select_expression(params, extent, start))
    stream = stream.filter("scale", w=width, h=height, flags="bicubic").filter("format", "yuvj420p")
    # Lines that are written at once: into those of `showinfo`, written in pieces, other threads put their errors.
    stream = stream.filter("metadata@mark", mode="add", key="taken", value=1)
    return stream.filter("metadata@taken", mode="print", key="taken")


def address(source: Source) -> str:
    """A folder's pattern is looked up in ffmpeg's working directory, so that no letter of the path is special."""
    return source.pattern or f"file:{source.path.absolute()}"


def _input_options(source: Source, params: ExtractParams, stretch: Stretch | None) -> dict[str, object]:
    """`discardcorrupt` drops packets the container knows to be cut short: a truncated file ends before its damage."""
    options: dict[str, object] = {"threads": 1, "fflags": "+discardcorrupt", **ONLY_FILES}
    if params.mode == "keyframes":
        options["skip_frame"] = "nokey"  # nothing else is decoded: 15 times as fast as decoding all
    if stretch is not None and stretch.seek_s is not None:
        options |= {"ss": repr(stretch.seek_s), "noaccurate_seek": None}
    if source.pattern:
        options |= {"f": "image2", "pattern_type": "glob", "framerate": params.source_fps}
    return options


def needed_extent(exe: str, source: Source, params: ExtractParams) -> Extent | None:
    """The whole video's extent where the choice of frames depends on it."""
    return extent_of(exe, source, params.source_fps) if params.mode == "count" or params.last_frame else None


def grid(params: ExtractParams, extent: Extent | None) -> tuple[str, float]:
    """The time grid: an operator, `*` or `/`, and the number by which it makes cells of seconds."""
    if params.mode == "count":
        return "*", params.count / extent.length_s if params.count and extent else 0.0
    operator, number = ("*", params.fps) if params.mode == "fps" else ("/", params.every_s)
    assert number is not None  # config.py saw to it
    return operator, number


def select_expression(params: ExtractParams, extent: Extent | None = None, start: str = "start_t") -> str:
    """The frames to take: the first of each cell of a time grid that starts with the first frame; or all keyframes.

    Only frames later than the last one taken count: time in the store always moves forward. Where the video's extent is
    not known, as its container tells no times, `count` takes the first frame and `last_frame` takes none.

    Args:
        extent: the whole video's, also where one of its pieces is decoded.
        start: the time of the video's first frame, ffmpeg's name for it or a number.
    """
    if params.mode == "keyframes":
        return "isnan(prev_selected_t)+gt(t,prev_selected_t)"
    operator, number = grid(params, extent)

    def cell(t: str) -> str:
        return f"floor(({t}-{start}+{TOLERANCE_S}){operator}{number!r})"

    last = f"+gte(t,{last_from_s(extent)!r})" if params.last_frame and extent else ""
    return f"isnan(prev_selected_t)+gt({cell('t')},{cell('prev_selected_t')}){last}"


def last_from_s(extent: Extent) -> float:
    """From this time on a frame is the last one."""
    return extent.last_s - TOLERANCE_S


def scale_expressions(short_side_px: int, upscale: bool) -> tuple[str, str]:
    """Width and height for ffmpeg's `scale`: the short side becomes `short_side_px`, the other follows (-1)."""
    width, height = (str(short_side_px),) * 2 if upscale else (f"min(iw,{short_side_px})", f"min(ih,{short_side_px})")
    return f"if(lt(iw,ih),{width},-1)", f"if(lt(iw,ih),-1,{height})"
