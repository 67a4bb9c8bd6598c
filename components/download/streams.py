"""What each video of a corpus is: size, rate, length. Sources of one dataset disagree, so it is written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from components.common.ffmpeg import probe

EXTENSIONS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"}


def videos_below(folder: Path) -> list[Path]:
    """Video files by extension, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def streams_of(folder: Path) -> list[dict[str, Any]]:
    """Path, codec, width, height, fps, duration_s and rotation of every video; of one that cannot be read, why."""
    rows: list[dict[str, Any]] = []
    for video in videos_below(folder):
        row: dict[str, Any] = {"path": video.relative_to(folder).as_posix()}
        try:
            row |= dataclasses.asdict(probe(video))
        except StageError as error:
            row["unreadable"] = error.what
        rows.append(row)
    return rows


def told(row: dict[str, Any]) -> str:
    """One line about a video."""
    if "unreadable" in row:
        return f"{row['path']}: {row['unreadable']}"
    rate = f"{row['fps']:.4g} fps" if row["fps"] else "no rate told"
    length = f"{row['duration_s']:,.1f} s" if row["duration_s"] else "no length told"
    return f"{row['path']}: {row['width']}x{row['height']}, {rate}, {length}, {row['codec']}"
