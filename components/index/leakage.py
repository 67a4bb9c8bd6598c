"""Do pretraining videos show up in a benchmark? Near fingerprints tell, whatever the files are called.

Every checked benchmark image is compared with about one frame a second of every video. A sequence of a video that is
in the corpus is found by those of its images that lie next to a fingerprinted frame; a single photograph that was cut
from fast motion between two of them may be missed, which is why `every_s` is a parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common.context import Context
from components.common.errors import StageError
from components.index.config import FingerprintParams
from components.index.fingerprint import FINGERPRINT, UNREADABLE, fingerprint, near
from components.index.frame_prints import cached, in_threads
from components.index.table import FrameTable

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
VIDEOS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v"}
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_PALETTE = 3  # colour type, byte 25 of the file: an image of labels, whatever its folder


@dataclass(frozen=True)
class Leak:
    """Matches of one benchmark.

    Attributes:
        report: what `leakage.json` says of it.
        videos: int64, numbers of the videos concerned.
    """

    report: dict[str, Any]
    videos: np.ndarray


def check_benchmarks(
    benchmarks: Path, prints: np.ndarray, table: FrameTable, params: FingerprintParams, ctx: Context
) -> dict[str, Leak]:
    """One `Leak` a sub-folder of `benchmarks`; raises StageError when there is none."""
    folders = sorted(entry for entry in benchmarks.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise StageError("no benchmark folders here", where=benchmarks, do="one sub-folder a benchmark is expected")
    known = prints[prints["texture"] >= params.min_texture]
    leaks = {}
    for folder in folders:
        leaks[folder.name] = _check(folder, known, table, params, ctx)
        report = leaks[folder.name].report
        if not report["images_checked"]:
            ctx.warn(f"benchmark '{folder.name}' has no images to compare; leakage into it was not checked")
    return leaks


def benchmark_files(folder: Path, skip: tuple[str, ...]) -> tuple[list[Path], int]:
    """Images below a benchmark's folder, sorted, without its label images; and the number of video files there."""
    images, videos = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.lower() not in skip and not name.startswith("."))
        for name in sorted(files):
            file = Path(place) / name
            videos += file.suffix.lower() in VIDEOS
            if file.suffix.lower() in IMAGES and not _is_label_image(file):
                images.append(file)
    return sorted(images), videos


def _check(folder: Path, known: np.ndarray, table: FrameTable, params: FingerprintParams, ctx: Context) -> Leak:
    found, videos = benchmark_files(folder, tuple(name.lower() for name in params.skip_folders))
    images = _spread(found, params.max_images)
    prints = cached(ctx.cache / f"benchmark-{folder.name}.npy", lambda: _prints_of(images, folder.name, params, ctx))
    clear = np.flatnonzero(prints["texture"] >= params.min_texture)
    pairs = near(prints["hash"][clear], known["hash"], params.max_distance_bits)
    frames = known["frame"][pairs.base]
    leaking = np.unique(table.columns["video"][frames])
    report = {
        "images": len(found),
        "images_checked": len(clear),
        "images_without_texture": int(((prints["texture"] >= 0) & (prints["texture"] < params.min_texture)).sum()),
        "images_unreadable": int((prints["texture"] == UNREADABLE).sum()),
        "video_files_not_checked": videos,
        "matching_images": len(np.unique(pairs.query)),
        "training_videos": [table.keys[video] for video in leaking.tolist()],
    }
    places = [images[image].relative_to(folder).as_posix() for image in clear[pairs.query].tolist()]
    report["examples"] = list(_examples(places, frames, pairs.bits, table, params.max_examples))
    return Leak(report, leaking)


def _examples(
    places: list[str], frames: np.ndarray, bits: np.ndarray, table: FrameTable, limit: int
) -> Iterator[dict[str, Any]]:
    """The surest matches first."""
    for match in np.argsort(bits, kind="stable")[:limit].tolist():
        frame = int(frames[match])
        video, pts_s = table.keys[int(table.columns["video"][frame])], float(table.columns["pts_s"][frame])
        yield {"image": places[match], "video": video, "pts_s": round(pts_s, 3), "bits": int(bits[match])}


def _spread(files: list[Path], limit: int) -> list[Path]:
    """At most `limit` of the files, evenly spread."""
    if len(files) <= limit:
        return files
    return [files[number * len(files) // limit] for number in range(limit)]


def _prints_of(images: list[Path], name: str, params: FingerprintParams, ctx: Context) -> np.ndarray:
    prints = np.zeros(len(images), dtype=FINGERPRINT)
    with ctx.progress(len(images), f"images of {name}") as progress:
        for number, print_ in enumerate(in_threads(_print_of, images, params.workers)):
            prints[number] = print_
            progress.update()
    return prints


def _print_of(file: Path) -> np.ndarray:
    try:
        return fingerprint(file.read_bytes())
    except OSError:
        return fingerprint(b"")


def _is_label_image(file: Path) -> bool:
    if file.suffix.lower() != ".png":
        return False
    try:
        with file.open("rb") as stream:
            head = stream.read(26)
    except OSError:
        return False
    return head[:8] == PNG_HEAD and len(head) == 26 and head[25] == PNG_PALETTE
