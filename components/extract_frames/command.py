"""The ffmpeg command of one video.

Frames are thinned before they are scaled: 285 source frames a second against 199 the other way round (720p H.264, one
core, 307 for decoding alone). They are thinned by `select` and not by the `fps` filter: that one moves frames onto a
regular grid and repeats them where the source is slower, so that their true times are lost and a "pair" may be one
picture twice. Here every frame keeps the time at which it is shown in the source, and none comes twice.
"""

from __future__ import annotations

from components.common.ffmpeg import ONLY_FILES
from components.extract_frames.config import ExtractParams
from components.extract_frames.extent import Extent, extent_of
from components.extract_frames.find import Source

# Matroska, FLV and ASF round times to a millisecond, at the first frame and at this one: a frame meant for a cell of
# the time grid may lie so much before its border. Below half a frame's time up to 450 frames a second.
TOLERANCE_S = 0.0011
LOG = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]


def build_command(exe: str, source: Source, params: ExtractParams) -> list[str]:
    """Arguments that decode `source` on one thread and write the chosen frames as JPEGs to standard output.

    Times, cuts and damage are told on standard error (see report.py). Rotation metadata is applied by ffmpeg; pixels
    that are not square stay so.
    """
    import ffmpeg

    stream = ffmpeg.input(_address(source), **_input_options(source, params))["V:0"]
    if params.cuts is not None:
        stream = stream.filter("scdet", threshold=params.cuts.threshold)
        stream = stream.filter("metadata", mode="print", key="lavfi.scd.time")
    needs_extent = params.mode == "count" or params.last_frame
    extent = extent_of(exe, source, params.source_fps) if needs_extent else None
    width, height = scale_expressions(params.short_side_px, params.upscale)
    stream = stream.filter("select", select_expression(params, extent))
    stream = stream.filter("scale", w=width, h=height, flags="bicubic").filter("format", "yuvj420p")
    stream = stream.filter("showinfo", checksum=0)
    options = {"c:v": "mjpeg", "q:v": params.quality, "flags:v": "+bitexact", "threads": 1, "fps_mode": "passthrough"}
    output = ffmpeg.output(stream, "pipe:1", format="image2pipe", **options)
    return [str(part) for part in ffmpeg.compile(output.global_args(*LOG, "-filter_complex_threads", "1"), cmd=exe)]


def _address(source: Source) -> str:
    """A folder's pattern is looked up in ffmpeg's working directory, so that no letter of the path is special."""
    return source.pattern or f"file:{source.path.absolute()}"


def _input_options(source: Source, params: ExtractParams) -> dict[str, object]:
    """`discardcorrupt` drops packets the container knows to be cut short: a truncated file ends before its damage."""
    options: dict[str, object] = {"threads": 1, "fflags": "+discardcorrupt", **ONLY_FILES}
    if params.mode == "keyframes":
        options["skip_frame"] = "nokey"  # nothing else is decoded: 15 times as fast as decoding all
    if source.pattern:
        options |= {"f": "image2", "pattern_type": "glob", "framerate": params.source_fps}
    return options


def select_expression(params: ExtractParams, extent: Extent | None = None) -> str:
    """The frames to take: the first of each cell of a time grid that starts with the first frame; or all keyframes.

    Only frames later than the last one taken count: time in the store always moves forward. Where the video's extent is
    not known, as its container tells no times, `count` takes the first frame and `last_frame` takes none.
    """
    if params.mode == "keyframes":
        return "isnan(prev_selected_t)+gt(t,prev_selected_t)"
    cells = {
        "fps": f"*{params.fps!r}",
        "every_s": f"/{params.every_s!r}",
        "count": f"*{params.count / extent.length_s!r}" if params.count and extent else "*0",
    }[params.mode]

    def cell(t: str) -> str:
        return f"floor(({t}-start_t+{TOLERANCE_S}){cells})"

    last = f"+gte(t,{extent.last_s - TOLERANCE_S!r})" if params.last_frame and extent else ""
    return f"isnan(prev_selected_t)+gt({cell('t')},{cell('prev_selected_t')}){last}"


def scale_expressions(short_side_px: int, upscale: bool) -> tuple[str, str]:
    """Width and height for ffmpeg's `scale`: the short side becomes `short_side_px`, the other follows (-1)."""
    width, height = (str(short_side_px),) * 2 if upscale else (f"min(iw,{short_side_px})", f"min(ih,{short_side_px})")
    return f"if(lt(iw,ih),{width},-1)", f"if(lt(iw,ih),-1,{height})"
