"""Which of a corpus's videos are taken: all, or those of a pattern or a list (a split's, or T-CoRe's entries)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from components.common.errors import StageError
from components.common.tcore_lists import read_entries
from components.extract_frames.find import Source

SHOWN = 3


def choose(sources: list[Source], corpus: Path, name: str) -> tuple[list[Source], list[str]]:
    """The videos that the list `name` (below the corpus, or anywhere) tells of, and its names of no video.

    With a `*` it is no list but a pattern of the videos' paths.

    A name is a video's when it is the end of its path, with or without extension. Lists of frames (DAVIS 2016) name
    the folder that holds them.

    Raises:
        StageError: the list is missing, or names none of the videos.
    """
    if "*" in name:
        return _matching(sources, corpus, name), []
    file = corpus / name
    wanted = {PurePosixPath(name.strip("/")).parts: name for name in _names(file)}
    taken, met = [], set()
    for source in sources:
        ends = {end for path in (source.key, source.name) for end in _ends(path)}
        if hit := ends & wanted.keys():
            taken.append(source)
            met |= hit
    if not taken:
        what = f"none of the {len(sources)} videos is named by this list of {len(wanted)}"
        raise StageError(what, where=file, do="names are ends of the videos' paths")
    return taken, [name for parts, name in wanted.items() if parts not in met]


def _matching(sources: list[Source], corpus: Path, pattern: str) -> list[Source]:
    taken = [source for source in sources if fnmatchcase(source.name, pattern) or fnmatchcase(source.key, pattern)]
    if not taken:
        what = f"none of the {len(sources)} videos matches '{pattern}', the first is '{sources[0].name}'"
        raise StageError(what, where=corpus, do="see extract_frames.<corpus>.videos")
    return taken


def _names(file: Path) -> Iterable[str]:
    if file.suffix == ".npy":
        return [f"{entry.class_name}/{entry.video_id}" for entry in read_entries(file)]
    try:
        words = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise StageError("no such list of videos", where=file, do="see extract_frames.<corpus>.videos") from None
    return dict.fromkeys(_folder_of(word) for word in words)


def _folder_of(name: str) -> str:
    """A frame's folder; a video's name as it is."""
    return name.rpartition("/")[0] if name.lower().endswith((".jpg", ".jpeg", ".png")) else name


def _ends(path: str) -> Iterable[tuple[str, ...]]:
    parts = tuple(path.split("/"))
    return (parts[start:] for start in range(len(parts)))


def told(missing: list[str]) -> str:
    """A line about names of no video."""
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"{len(missing)} names of the list are of no video here: {', '.join(missing[:SHOWN])}{more}"
