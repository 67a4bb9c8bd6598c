"""YouTube-VOS: {train,valid}/{JPEGImages,Annotations}/<video>/ and {train,valid}/meta.json.

meta.json: {"videos": {<video>: {"objects": {"1": {"category": "ape", ...}, ...}}}}. The class of an object is the rank
of its category among all categories of that file, sorted, counted from 1; 0 is background. Class numbers therefore hold
within a split only, as in TimeT's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from components.evaluate.layouts.video_masks import MaskedVideo, read_trees, split_root

META = "meta.json"


def read_ytvos(root: Path, split: str = "train", wanted: list[str] | None = None) -> list[MaskedVideo]:
    """Videos whose masks become classes; StageError if meta.json is missing, broken, or lacks a video."""
    place = split_root(root, split)
    objects = read_meta(place / META)
    classes = {name: number for number, name in enumerate(categories(objects), start=1)}

    def labels(video: str) -> Mapping[int, int]:
        if video not in objects:
            raise StageError(f"video {video} is not in meta.json", where=place / META)
        return {number: classes[category] for number, category in objects[video].items()}

    return read_trees(place, wanted, labels)


def categories(objects: Mapping[str, Mapping[int, str]]) -> list[str]:
    """All categories of a meta file, sorted."""
    return sorted({category for video in objects.values() for category in video.values()})


def read_meta(file: Path) -> dict[str, dict[int, str]]:
    """video -> object id -> category; StageError if the file is missing or of another form."""
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
        return {
            video: {int(number): str(facts["category"]) for number, facts in entry["objects"].items()}
            for video, entry in document["videos"].items()
        }
    except (FileNotFoundError, IsADirectoryError):
        raise StageError("not in YouTube-VOS layout, no meta.json", where=file.parent) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a YouTube-VOS meta.json ({type(error).__name__}: {' '.join(str(error).split())})"
        raise StageError(what, where=file, do="expected videos.<video>.objects.<id>.category") from None
