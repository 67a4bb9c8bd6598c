"""Finds the videos of a corpus: files by extension or first bytes, and folders of images where these are wanted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.common import hashing

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".asf",
    ".ogv", ".3gp", ".3g2", ".mxf", ".dv", ".vob", ".gif",
})
# fmt: on
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
SNIFFED_BYTES = 16


@dataclass(frozen=True)
class Source:
    """A video: one file, or a folder of images in the order of their names.

    Attributes:
        path: where it is.
        name: the path below the corpus, with `/`.
        key: its name in the frame store, unique in the corpus.
        pattern: `*.jpg` for a folder of images, else None.
        size: bytes, to start long videos first.
    """

    path: Path
    name: str
    key: str
    pattern: str | None
    size: int

    def sha256(self) -> str:
        """Hash of the file, or of the names and contents of the images; raises OSError when it cannot be read."""
        return hashing.tree_hash(self.path) if self.pattern else hashing.file_hash(self.path)


def find_sources(
    folder: Path, image_folders: bool = False, skip: Collection[str] = (), skip_names: Collection[str] = ()
) -> list[Source]:
    """All videos below `folder`, sorted by path; with `image_folders`, each folder that holds images is one too.

    What lies below the folders `skip` (paths below `folder`) is no video: tracks and label maps of the videos. Nor is
    what lies below folders named as in `skip_names`, at any depth.

    Links are followed, but no folder is entered twice. Hidden files and files that are not videos are passed over;
    a file with a video's extension is always a source, so that a broken one is reported and not overlooked.
    """
    found = list(_walk(folder, "", set(), image_folders, skip, skip_names))
    keys = _keys([name if pattern is None else f"{name}/" for _, name, pattern, _ in found])
    return [
        Source(path, name, key, pattern, size) for (path, name, pattern, size), key in zip(found, keys, strict=True)
    ]


def _walk(
    folder: Path,
    prefix: str,
    seen: set[tuple[int, int]],
    images: bool,
    skip: Collection[str],
    skip_names: Collection[str],
) -> Iterator[tuple[Path, str, str | None, int]]:
    """(path, name below the corpus, image pattern, size) in sorted order."""
    identity = folder.stat()
    if (identity.st_dev, identity.st_ino) in seen:
        return
    seen.add((identity.st_dev, identity.st_ino))
    entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
    if images and (pattern := _image_pattern([e.name for e in entries])):
        yield folder, prefix.rstrip("/") or "frames", pattern, sum(e.stat().st_size for e in entries if e.is_file())
    for entry in entries:
        name = prefix + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
        if entry.is_dir():
            if name not in skip and entry.name not in skip_names:
                yield from _walk(Path(entry.path), f"{name}/", seen, images, skip, skip_names)
        elif _is_video(entry):
            yield Path(entry.path), name, None, _size(entry)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing: recorded as a bad video when it is opened
        return 0


def _is_video(entry: os.DirEntry[str]) -> bool:
    if not entry.is_file() and os.path.exists(entry.path):  # noqa: PTH110 - a pipe or a device: reading may never end
        return False
    extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a million entries, no Path for each
    if extension:
        return extension in VIDEO_EXTENSIONS
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return _looks_like_video(file.read(SNIFFED_BYTES))
    except OSError:
        return False


def _looks_like_video(head: bytes) -> bool:
    """MP4 and MOV, Matroska and WebM, AVI, FLV, ASF, MPEG program stream: by the first bytes of the format."""
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat")
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head.startswith((b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba"))
    )


def _image_pattern(names: list[str]) -> str | None:
    """`*.jpg` for the commonest image extension among `names` (as it is written), None when there is no image."""
    counts = Counter(ext for ext in (os.path.splitext(n)[1] for n in names) if ext.lower() in IMAGE_EXTENSIONS)  # noqa: PTH122
    return f"*{min(counts, key=lambda ext: (-counts[ext], ext))}" if counts else None


def _keys(names: list[str]) -> list[str]:
    """Names without extension where that tells them apart, whole names where not.

    A stem is taken only if nothing else has it as stem or as whole name; whole names differ anyway.
    """
    stems = [name[:-1] if name.endswith("/") else os.path.splitext(name)[0] for name in names]  # noqa: PTH122
    times, whole = Counter(stems), {name.rstrip("/") for name in names}
    keys = []
    for name, stem in zip(names, stems, strict=True):
        plain = name.rstrip("/")
        free = times[stem] == 1 and (stem == plain or stem not in whole)
        keys.append(stem if free else plain)
    return keys
