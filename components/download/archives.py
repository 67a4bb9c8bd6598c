"""Unpacking archives from outside: nothing leaves the folder, no links, no bombs."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from components.common.errors import StageError
from components.common.outputs import PARTIAL, remove
from components.download.config import Unpack

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
CHUNK_BYTES = 1 << 20
GIB = 2**30
ZIP_MAGIC = b"PK\x03\x04"  # of the first member; the list of all stands at the end, where a broken transfer has none
PACKED_TAR_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
FETCH_AGAIN = "fetch it again"
MAX_DEPTH = 4  # archives in archives: ImageNet's training set is two deep
SMALL_BYTES = 64 << 20  # below this no ratio is held against an archive: a page of zeros is no bomb
Member = tuple[str, IO[bytes]]


def is_archive(path: Path) -> bool:
    """By name and by content: a .zip that is none stays a file among files; one that ends early is an archive."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return zipfile.is_zipfile(path) or _has_magic(path, (ZIP_MAGIC,))
    return name.endswith(TAR_ENDINGS) and (tarfile.is_tarfile(path) or _has_magic(path, PACKED_TAR_MAGIC))


def _has_magic(path: Path, magic: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(magic)


def unpack(archive: Path, target: Path, limits: Unpack) -> int:
    """Unpack into the new folder `target`, whole or not at all; returns the number of files.

    Raises:
        StageError: a member leaves the folder, is a link or device, appears twice or is encrypted; a limit is passed;
            the archive is damaged or ends early.
    """
    partial = target.with_name(f".{target.name}{PARTIAL}")
    remove(partial)
    partial.mkdir(parents=True)
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    room = _room(archive, limits)
    count = 0
    try:
        for name, content in members(archive):
            count += 1
            if count > limits.max_members:
                raise _refused(archive, name, f"more than {limits.max_members} files")
            room = _write(content, _inside(archive, partial, name), room, archive)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's trouble (disk full), not the archive's
        raise StageError(f"the archive is damaged or ends early, {error}", where=archive, do=FETCH_AGAIN) from None
    partial.rename(target)
    return count


def _room(archive: Path, limits: Unpack) -> int:
    by_ratio = max(archive.stat().st_size * limits.max_ratio, SMALL_BYTES)
    return int(min(by_ratio, limits.max_gib * GIB))


def _write(content: IO[bytes], place: Path, room: int, archive: Path) -> int:
    """Copy one member; the bytes that really come are counted, since headers can lie."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        raise _refused(archive, place.name, "it appears twice")
    with place.open("wb") as out:
        while chunk := content.read(CHUNK_BYTES):
            room -= len(chunk)
            if room < 0:
                raise _refused(
                    archive, place.name, "it unpacks to more than the limits unpack.max_gib, unpack.max_ratio"
                )
            out.write(chunk)
    return room


def _inside(archive: Path, folder: Path, name: str) -> Path:
    """Where a member goes; refuses absolute names, drive letters, backslashes and every `..`."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or ":" in pure.parts[0]:
        raise _refused(archive, name, "its path leaves the folder")
    return folder.joinpath(*pure.parts)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = info.external_attr >> 28  # file type bits of the Unix mode; 0 where the archiver wrote none
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "it is encrypted")
            if kind not in (0, 0o4, 0o10):
                raise _refused(archive, info.filename, "links and devices are not unpacked")
            if not info.is_dir():
                with file.open(info) as content:
                    yield info.filename, content


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:*") as file:
        for member in file:
            if member.isdir():
                continue
            if not member.isreg():
                raise _refused(archive, member.name, "links and devices are not unpacked")
            content = file.extractfile(member)
            assert content is not None
            yield member.name, content


def _refused(archive: Path, member: str, why: str) -> StageError:
    return StageError(f"refused to unpack '{member}', {why}", where=archive)


def unpack_all(folder: Path, limits: Unpack, into: Sequence[tuple[str, str]] = ()) -> int:
    """Replace every archive below our own copy `folder` by what it holds; returns the number of files unpacked.

    The members of `a.zip` land beside it, as `unzip` would put them, so an archive's own folders decide the layout.
    Archives inside archives are unpacked, too.

    Args:
        into: (pattern of an archive's name, folder beside it that its members go to); `{}` in the folder stands for
            the archive's name without its ending.
    """
    count = 0
    for _ in range(MAX_DEPTH):
        found = sorted(path for path in folder.rglob("*") if path.is_file() and is_archive(path))
        if not found:
            break
        count += sum(_replace(archive, limits, into) for archive in found)
    return count


def _replace(archive: Path, limits: Unpack, into: Sequence[tuple[str, str]]) -> int:
    unpacked = archive.with_name(f"{archive.name}.unpacked")
    remove(unpacked)
    count = unpack(archive, unpacked, limits)
    name = next((name for pattern, name in into if fnmatch(archive.name, pattern)), ".")
    target = archive.parent / name.replace("{}", bare_name(archive.name))
    target.mkdir(parents=True, exist_ok=True)
    _merge(unpacked, target, archive)
    archive.unlink()
    return count


def bare_name(name: str) -> str:
    """An archive's name without its ending: `a.tar.gz` is `a`."""
    ending = max((end for end in (*TAR_ENDINGS, ".zip") if name.lower().endswith(end)), key=len, default="")
    return name[: len(name) - len(ending)]


def _merge(source: Path, target: Path, archive: Path) -> None:
    """Move the tree `source` into `target`; two archives may share folders, and files only where they are equal.

    What an unpacking that broke off has left there, the beginning of a file, is replaced by the whole file.
    """
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif not place.exists() or (place.is_file() and _begins(path, place)):
            path.replace(place)
        else:
            raise _refused(archive, str(place.relative_to(target)), "another file of this name is there")
    shutil.rmtree(source)


def _begins(whole: Path, part: Path) -> bool:
    """Whether the bytes of `part` are the first ones, or all, of `whole`."""
    if part.stat().st_size > whole.stat().st_size:
        return False
    with whole.open("rb") as ours, part.open("rb") as theirs:
        while chunk := theirs.read(CHUNK_BYTES):
            if ours.read(len(chunk)) != chunk:
                return False
    return True
