"""Finds the videos of a corpus: files by extension or first bytes, and folders of images where these are wanted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Source:
    """A video: one file, or a folder of images in the order of their names; half a million of them fit in 0.2 GB.

    Attributes:
        place: where it is, as a string: a Path costs three times as much.
        name: the path below the corpus, with `/`.
        key: its name in the frame store, unique in the corpus.
        pattern: `*.jpg` for a folder of images, else None.
        size: bytes, to start long videos first.
    """

    place: str
    name: str
    key: str
    pattern: str | None
    size: int

    @property
    def path(self) -> Path:
        return Path(self.place)

    def sha256(self) -> str:
        """Hash of the file, or of the names and contents of the images; raises OSError when it cannot be read."""
        return hashing.tree_hash(self.path) if self.pattern else hashing.file_hash(self.path)

    def state(self) -> tuple[int, ...]:
        """Size and time of the last change, to notice one; empty where the source is not there."""
        try:
            if self.pattern is None:
                facts = os.stat(self.place)  # noqa: PTH116 - called for each of a million videos
                return facts.st_size, facts.st_mtime_ns
            with os.scandir(self.place) as entries:
                images = [entry.stat() for entry in entries]
            return len(images), sum(i.st_size for i in images), max((i.st_mtime_ns for i in images), default=0)
        except OSError:
            return ()


def find_sources(
    folder: Path, image_folders: bool = False, skip: Collection[str] = (), skip_names: Collection[str] = ()
) -> list[Source]:
    """All videos below `folder`, as `walk_sources` finds them."""
    return list(walk_sources(folder, image_folders, skip, skip_names))


def walk_sources(
    folder: Path, image_folders: bool = False, skip: Collection[str] = (), skip_names: Collection[str] = ()
) -> Iterator[Source]:
    """All videos below `folder`, sorted by path; with `image_folders`, each folder that holds images is one too.

    They come as they are found: what is held is the listings of the folders on the way, not that of the whole tree.
    What lies below the folders `skip` (paths below `folder`) is no video: tracks and label maps of the videos. Nor is
    what lies below folders named as in `skip_names`, at any depth.

    Links are followed, but no folder is entered twice. Hidden files and files that are not videos are passed over;
    a file with a video's extension is always a source, so that a broken one is reported and not overlooked.

    Raises:
        OSError: a folder cannot be listed; what is in it would be missing without a word.
    """
    return _below(str(folder), "", _Walk(image_folders, frozenset(skip), frozenset(skip_names)))


@dataclass
class _Walk:
    """What a walk keeps in mind: whether folders of images count, which folders do not, which were entered."""

    images: bool
    skip: frozenset[str]
    skip_names: frozenset[str]
    seen: set[tuple[int, int]] = field(default_factory=set)

    def skips(self, name: str, path: str) -> bool:
        """Whether the folder of this name, at this path below the corpus, is passed over."""
        return path in self.skip or name in self.skip_names


@dataclass
class _Listing:
    """One folder: its sub-folders, its videos with their sizes, and what images it holds."""

    folders: list[str] = field(default_factory=list)
    videos: dict[str, int] = field(default_factory=dict)
    pattern: str | None = None
    image_bytes: int = 0


def _below(folder: str, prefix: str, walk: _Walk) -> Iterator[Source]:
    identity = os.stat(folder)  # noqa: PTH116
    if (identity.st_dev, identity.st_ino) in walk.seen:
        return
    walk.seen.add((identity.st_dev, identity.st_ino))
    own = prefix.rstrip("/")
    here = _listing(folder, walk.images)
    if here.pattern:
        yield Source(folder, own or "frames", own or "frames", here.pattern, here.image_bytes)
    # Names clash within one folder alone, so that keys are known before the walk goes on.
    taken = {name for name in here.folders if walk.images and not walk.skips(name, prefix + _said(name))}
    taken |= {"frames"} if here.pattern and not prefix else set()
    keys = _keys(here.videos, {name for name in taken & set(map(_stem, here.videos)) if _is_video_too(folder, name)})
    for name in sorted([*here.folders, *here.videos], key=os.fsencode):
        place, said = os.path.join(folder, name), prefix + _said(name)  # noqa: PTH118
        if name in here.videos:
            yield Source(place, said, prefix + _said(keys[name]), None, here.videos[name])
        elif not walk.skips(name, said):
            yield from _below(place, f"{said}/", walk)


def _listing(folder: str, images: bool) -> _Listing:
    found, names = _Listing(), list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if images:
                names.append(entry.name)
                found.image_bytes += _size(entry) if entry.is_file() else 0
            if entry.is_dir():
                found.folders.append(entry.name)
            elif _is_video(entry):
                found.videos[entry.name] = _size(entry)
    found.pattern = _image_pattern(names)
    return found


def _is_video_too(folder: str, name: str) -> bool:
    """Whether the sub-folder `name` holds images, or the folder itself does, which is then called `frames`."""
    try:
        return _image_pattern(os.listdir(os.path.join(folder, name))) is not None  # noqa: PTH118, PTH208
    except OSError:
        return True


def _said(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


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


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _keys(videos: Collection[str], others: Collection[str] = ()) -> dict[str, str]:
    """Names of one folder's files without extension where that tells them apart, whole names where not.

    A stem is taken only if nothing else has it as stem or as whole name; whole names differ anyway.

    Args:
        others: stems that are taken by folders of images.
    """
    times = Counter(map(_stem, videos))

    def free(name: str, stem: str) -> bool:
        return times[stem] == 1 and stem not in others and (stem == name or stem not in videos)

    return {name: stem if free(name, stem := _stem(name)) else name for name in videos}
