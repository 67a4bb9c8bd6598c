"""Extraction in parts: which videos are whose, and which parts make a whole.

On a cluster each part of the sorted video list is extracted by a pod of its own (`--part 3/8`), and one more puts their
stores together (`--merge`). A part's manifest says which one it is, of how many, of which videos, by which parameters.
"""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from components.common import hashing
from components.common.config import Params
from components.common.errors import StageError
from components.common.frame_store import MANIFEST, FrameStore
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source

NOT_IN_FRAMES = {"workers", "max_bad_share", "piece_s", "split_mb"}  # parameters that no byte of a part depends on


class Part(Params):
    """What a part says of itself in its manifest."""

    number: int
    of: int
    videos: str
    params: str


def cut(sources: list[Source], n: int) -> list[list[Source]]:
    """The list in `n` runs of about equal bytes, by the list alone: a video belongs where its middle byte lies.

    No part is larger than its share by more than its two outer videos' halves; where videos are few or of very
    different sizes some parts are empty.
    """
    total = sum(source.size for source in sources) or 1
    parts: list[list[Source]] = [[] for _ in range(n)]
    for source, end in zip(sources, accumulate(source.size for source in sources), strict=True):
        middle = (2 * end - source.size) * n // (2 * total)
        parts[min(middle, n - 1)].append(source)  # empty files at the end have their middle at `total`
    return parts


def parse_part(text: str, params: ExtractParams) -> int:
    """The number in `3/8`, counted from 1; raises StageError when it is none of `params.parts`."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise StageError(f"--part takes NUMBER/PARTS, such as 1/8 to 8/8, got '{text}'")
    if int(match[2]) != params.parts:
        raise StageError(f"--part {text}, but the parameter 'parts' is {params.parts}", do="make both the same")
    return int(match[1])


def params_hash(params: ExtractParams) -> str:
    """Hash of the parameters that decide a part's bytes."""
    return hashing.json_hash(params.model_dump(mode="json", exclude=NOT_IN_FRAMES))


def find_parts(folder: Path) -> list[Path]:
    """The stores to merge: all those below `folder`, or itself where it is one."""
    if (folder / MANIFEST).exists():
        return [folder]
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def in_order(folders: list[Path], params: ExtractParams) -> list[Path]:
    """The folders sorted by the number of their part.

    Raises:
        StageError: they are not every part, once, of one corpus by these parameters.
    """
    found: dict[int, Path] = {}
    first: Part | None = None
    for folder in folders:
        part = _part_of(folder)
        _check_kin(part, first or part, folder.resolve(), params)
        first = first or part
        if part.number in found:
            where = f"{found[part.number].resolve()} and {folder.resolve()}"
            raise StageError(f"part {part.number}/{part.of} is there twice", where=where)
        found[part.number] = folder
    numbers = range(1, params.parts + 1)
    missing = [str(number) for number in numbers if number not in found]
    if missing:
        raise StageError(f"of {params.parts} parts these are missing: {', '.join(missing)}", do="extract them first")
    return [found[number] for number in numbers]


def _part_of(folder: Path) -> Part:
    said: Any = FrameStore(folder).manifest.get("part")
    try:
        return Part.model_validate(said)
    except ValueError:
        raise StageError("this frame store is no part of a larger one", where=folder.resolve()) from None


def _check_kin(part: Part, first: Part, folder: Path, params: ExtractParams) -> None:
    if part.of != params.parts:
        what = f"part {part.number}/{part.of}, but the parameter 'parts' is {params.parts}"
        raise StageError(what, where=folder, do="merge parts of one run")
    if part.params != params_hash(params):
        what = f"part {part.number}/{part.of} was extracted with other parameters"
        raise StageError(what, where=folder, do="extract it again, or merge with its parameters")
    if part.videos != first.videos:
        what = f"part {part.number}/{part.of} was extracted from other videos than part {first.number}/{first.of}"
        raise StageError(what, where=folder, do="extract all parts from the same folder")
