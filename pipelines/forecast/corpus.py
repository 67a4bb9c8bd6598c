"""How many videos and pictures there are: from the parameters, from the folder they lie in, or as told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.common.config import read_yaml
from components.common.errors import StageError
from pipelines.forecast.rates import Benchmark, Rates

VIDEO_FILES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv"}
PICTURE_FILES = {".jpg", ".jpeg", ".png"}
# Folders of label maps: read by a score, not shown to a network.
LABELS = {"annotations", "masks", "segmentationclass", "segmentationclassaug", "segmentationobject"}
CARDS = Path(__file__).resolve().parents[2] / "components" / "download" / "cards"
PROBED = 8  # headers read to learn a folder's lengths and sizes: some 50 ms each


@dataclass(frozen=True)
class Videos:
    """A corpus of equal videos; of a real folder, its means.

    Attributes:
        n: how many; `video_s`: length of each in seconds.
        fps, width_px, height_px: of the coded pictures.
        bytes: of all files together.
        cuts_per_s: hard cuts.
        keyframe_s: seconds between frames that are coded whole.
        drawn: rendered here, so that download costs drawing, not copying.
        known: where these figures come from.
    """

    n: int
    video_s: float
    fps: float
    width_px: float
    height_px: float
    bytes: float
    cuts_per_s: float
    keyframe_s: float
    drawn: bool
    known: str


@dataclass(frozen=True)
class Given:
    """`--videos N --video-s S`: stands in for every raw dataset."""

    videos: int
    video_s: float


def videos_of(name: str, section: Mapping[str, Any], rates: Rates, given: Given | None) -> Videos:
    """The corpus that a `download` section describes.

    Raises:
        StageError: its size cannot be known here and was not given.
    """
    if section.get("source") == "procedural":
        return _drawn(section, rates, given)
    if given:
        return _like_source(given.videos, given.video_s, rates, "as given")
    folder, card = folder_of(section), card_of(section)
    if folder is not None and (card is None or next(_files(folder, VIDEO_FILES), None)):
        return _counted(folder, rates)
    if card is not None and card.get("corpus"):
        return _published(card, str(section["card"]), rates)
    what = f"how many videos '{name}' will hold cannot be seen from here"
    raise StageError(what, where=f"download.{name}", do="say it: --videos N --video-s SECONDS")


def folder_of(section: Mapping[str, Any]) -> Path | None:
    """The folder of a local source, if it is here."""
    folder = Path(str(section.get("path", ""))).expanduser()
    local = section.get("source", "local" if "card" in section else None) == "local" and "path" in section
    return folder if local and folder.is_dir() else None


def card_of(section: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card that an entry names: a data file of the download stage."""
    if section.get("card") is None:
        return None
    return read_yaml(CARDS / f"{section['card']}.yaml")


def _published(card: Mapping[str, Any], name: str, rates: Rates) -> Videos:
    """The corpus as its card tells."""
    told = card["corpus"]
    guess = _like_source(int(told["videos"]), float(told["video_s"]), rates, f"as published, card {name}")
    return replace(
        guess,
        fps=float(told["fps"]),
        width_px=float(told["width_px"]),
        height_px=float(told["height_px"]),
        bytes=float(card["disk"]["after_gb"]) * 1e9,
    )


def _like_source(n: int, video_s: float, rates: Rates, known: str) -> Videos:
    source = rates.source
    size = n * video_s * source.bytes_per_s
    shape = (source.fps, source.width_px, source.height_px)
    return Videos(n, video_s, *shape, size, source.cuts_per_s, source.keyframe_s, drawn=False, known=known)


def _drawn(section: Mapping[str, Any], rates: Rates, given: Given | None) -> Videos:
    n = given.videos if given else int(section.get("clips", 24))
    video_s = given.video_s if given else float(section.get("clip_s", 10.0))
    fps, width, height = (float(section.get(k, d)) for k, d in (("fps", 24), ("width_px", 256), ("height_px", 192)))
    size = n * video_s * fps * width * height * rates.world.video_bytes_per_px
    cuts, keyframe_s = float(section.get("cuts_per_s", 0.0)), float(section.get("keyframe_s", 1.0))
    return Videos(n, video_s, fps, width, height, size, cuts, keyframe_s, drawn=True, known="rendered")


def _counted(folder: Path, rates: Rates) -> Videos:
    """Count and weigh the files, and read the headers of a few, evenly chosen."""
    from components.common.ffmpeg import probe

    files = sorted(_files(folder, VIDEO_FILES))
    if not files:
        raise StageError("no video file in this folder", where=folder)
    heads = []
    for file, _ in files[:: -(-len(files) // PROBED)]:
        try:
            heads.append(probe(file))
        except StageError:  # a broken file is for extract_frames to report
            continue
    lengths = [head.duration_s for head in heads if head.duration_s]
    if not lengths:
        raise StageError("no readable video among those tried", where=folder, do="give --videos and --video-s")
    guess = _like_source(len(files), sum(lengths) / len(lengths), rates, f"counted in {folder.name}")
    return replace(
        guess,
        fps=_mean([head.fps for head in heads if head.fps], guess.fps),
        width_px=_mean([head.width for head in heads], guess.width_px),
        height_px=_mean([head.height for head in heads], guess.height_px),
        bytes=float(sum(size for _, size in files)),
    )


def benchmark_of(name: str, section: Mapping[str, Any], rates: Rates) -> Benchmark:
    """Pictures of a benchmark: rendered, counted in its folder, else those of the published one."""
    if section.get("source") == "procedural":
        return _stills(section, rates)
    folder, card = folder_of(section), card_of(section)
    published = rates.benchmarks.get(name, rates.benchmarks["other"])
    if card is not None and card.get("pictures"):
        published = Benchmark(**card["pictures"], bytes=float(card["disk"]["after_gb"]) * 1e9)
    if folder is None:
        return published
    files = [(file.relative_to(folder).parts, size) for file, size in _files(folder, PICTURE_FILES)]
    shown = [parts for parts, _ in files if not {part.lower() for part in parts} & LABELS]
    train = sum("train" in parts for parts in shown)
    counted = {"train_pictures": train, "pictures": len(shown) - train, "bytes": sum(size for _, size in files)}
    return published.model_copy(update=counted)


def _stills(section: Mapping[str, Any], rates: Rates) -> Benchmark:
    """Pictures of the sample world: one a toy (imagenet), every frame (davis), some a clip (the others)."""
    layout = (section.get("layouts") or ["videos"])[0]
    clips = [float(section.get(f"{split}_clips", 4)) for split in ("train", "val")]
    width, height = float(section.get("width_px", 256)), float(section.get("height_px", 192))
    per_clip = float(section.get("stills_per_clip", 4))
    if layout == "imagenet":
        per_clip = sum(section.get("objects", (3, 6))) / 2
        width = height = float(section.get("crop_px", 96))
    elif layout not in ("voc", "ade20k", "coco"):
        per_clip = max(1, round(float(section.get("clip_s", 10)) * float(section.get("fps", 24))))
    train, held_out = (n * per_clip for n in clips)
    size = (train + held_out) * width * height * rates.world.still_bytes_per_px
    return Benchmark(train_pictures=train, pictures=held_out, width_px=width, height_px=height, bytes=size)


def _files(folder: Path, suffixes: set[str]) -> Iterator[tuple[Path, int]]:
    """(file, bytes) below a folder, by suffix."""
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            if file.suffix.lower() in suffixes and file.is_file():
                yield file, file.stat().st_size


def _mean(values: list[Any], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
