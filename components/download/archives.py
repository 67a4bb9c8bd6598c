"""Unpacking archives from outside: nothing leaves the folder, no links, no bombs."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from components.common.errors import StageError
from components.common.outputs import PARTIAL, remove
from components.download.config import Unpack

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
CHUNK_BYTES = 1 << 20
GIB = 2**30
SMALL_BYTES = 64 << 20  # below this no ratio is held against an archive: a page of zeros is no bomb
Member = tuple[str, IO[bytes]]


def is_archive(path: Path) -> bool:
    """By name and by content: a .zip that is none stays a file among files."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return zipfile.is_zipfile(path)
    return name.endswith(TAR_ENDINGS) and tarfile.is_tarfile(path)


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
        raise StageError(f"the archive is damaged or ends early, {error}", where=archive, do="fetch it again") from None
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


def unpack_all(folder: Path, limits: Unpack) -> int:
    """Replace every archive below our own copy `folder` by what it holds; returns the number of files unpacked.

    The members of `a.zip` land beside it, as `unzip` would put them, so an archive's own folders decide the layout.
    """
    count = 0
    for archive in sorted(path for path in folder.rglob("*") if path.is_file() and is_archive(path)):
        target = archive.with_name(f"{archive.name}.unpacked")
        remove(target)
        count += unpack(archive, target, limits)
        _merge(target, archive.parent, archive)
        archive.unlink()
    return count


def _merge(source: Path, target: Path, archive: Path) -> None:
    """Move the tree `source` into `target`; two archives may share folders, never a file."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif place.exists():
            raise _refused(archive, str(place.relative_to(target)), "another file of this name is there")
        else:
            path.rename(place)
    shutil.rmtree(source)
