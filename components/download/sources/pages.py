"""Pages of videos (YouTube and its like) through yt-dlp, an optional dependency: pip install 'longtake[youtube]'."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.common.errors import StageError
from components.download.config import Pages, Transfer

Stream = Mapping[str, Any]
REASON_CHARS = 160


def is_page(url: str, pages: Pages) -> bool:
    """Whether an address is the page of a video: by its host (and port, if one is given)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return False
    names = {parts.netloc.lower(), (parts.hostname or "").lower()}
    return any(name == host or name.endswith(f".{host}") for name in names for host in pages.hosts)


def choose(streams: Iterable[Stream], pages: Pages) -> Stream:
    """The stream to fetch, by the rule of `Pages`; equal ones are told apart by their ids.

    Raises:
        StageError: none of them has pictures and is low enough.
    """
    shown = [stream for stream in streams if stream.get("vcodec") != "none" and stream.get("height")]
    if not shown:
        raise StageError("the page has no stream with pictures")
    low = [stream for stream in shown if pages.max_height_px is None or stream["height"] <= pages.max_height_px]
    if not low:
        lowest = min(stream["height"] for stream in shown)
        what = f"no stream is as low as pages.max_height_px = {pages.max_height_px}, the lowest has {lowest}"
        raise StageError(what)
    return max(low, key=lambda stream: _merit(stream, pages.containers))


def _merit(stream: Stream, containers: list[str]) -> tuple[float, float, int, float, str]:
    ext = str(stream.get("ext"))
    rank = -containers.index(ext) if ext in containers else -len(containers)
    pixels = float(stream["height"]) * float(stream.get("width") or 0)
    rate = float(stream.get("vbr") or stream.get("tbr") or 0)
    return pixels, float(stream.get("fps") or 0), rank, rate, str(stream.get("format_id"))


def fetch(url: str, target: Path, work: Path, pages: Pages, transfer: Transfer) -> Path:
    """Fetch the chosen stream of a page; returns `target` with the stream's own extension.

    Args:
        work: folder that outlives a killed process: yt-dlp goes on from the bytes that lie there.

    Raises:
        StageError: yt-dlp is missing, the page is gone, or it has no stream by the rule.
    """
    yt_dlp = _library()
    work.mkdir(parents=True, exist_ok=True)
    quiet = {"quiet": True, "no_warnings": True, "noprogress": True, "cachedir": False, "color": "never"}
    patience = {"socket_timeout": transfer.timeout_s, "retries": transfer.retries, "noplaylist": True}
    try:
        with yt_dlp.YoutubeDL({**quiet, **patience, "logger": _Silent()}) as asked:
            info = asked.extract_info(url, download=False)
        stream = choose(info.get("formats") or [info], pages)
        options = {"format": str(stream["format_id"]), "outtmpl": str(work / "%(format_id)s.%(ext)s"), "fixup": "never"}
        with yt_dlp.YoutubeDL({**quiet, **patience, **options, "logger": _Silent()}) as taken:
            taken.process_ie_result(info, download=True)
    except yt_dlp.utils.YoutubeDLError as error:
        reason = " ".join(str(error).removeprefix("ERROR: ").split())[:REASON_CHARS]
        raise StageError(reason, where=url) from None
    made = [file for file in work.iterdir() if file.stem == str(stream["format_id"]) and file.suffix != ".part"]
    if not made:
        raise StageError("yt-dlp left no file", where=url)
    place = target.with_suffix(made[0].suffix)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made[0], place)
    return place


def _library() -> Any:
    try:
        import yt_dlp
    except ImportError:
        do = "pip install yt-dlp, or fetch the videos yourself and name their folder: source: local"
        raise StageError("the page of a video, and yt-dlp is not installed", do=do) from None
    return yt_dlp


class _Silent:
    """yt-dlp tells its errors by exceptions; its log is not wanted twice."""

    def debug(self, line: str) -> None: ...

    def warning(self, line: str) -> None: ...

    def error(self, line: str) -> None: ...
