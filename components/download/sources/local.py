"""Files and folders of this machine: copied, or cloned where the file system can. The originals are only read."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import StageError
from components.common.outputs import PARTIAL, atomic_file
from components.common.progress import Progress
from components.download.archives import is_archive
from components.download.cards import Card
from components.download.config import LocalParams
from components.download.space import check_space

FICLONE = 0x40049409  # Linux: share the blocks of another file, copy on write


def files_of(source: Path) -> list[tuple[Path, Path]]:
    """(file, path below the dataset) of a file or a folder, sorted; links are followed, loops are not.

    Raises:
        StageError: the source is missing, is empty, or has a folder that cannot be read.
    """
    if not source.exists():
        raise StageError("no such file or folder", where=source, do="check `path` in params.yaml")
    if source.is_file():
        return [(source, Path(source.name))]
    found = [(file, file.relative_to(source)) for file in _walk(source, frozenset())]
    if not found:
        raise StageError("the folder holds no file", where=source, do="check `path` in params.yaml")
    return found


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        return  # a link back to a folder that holds it
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        what = f"the folder cannot be read, {(error.strerror or 'no access').lower()}"
        raise StageError(what, where=folder, do="check its permissions") from None
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, above | {real})
        elif entry.is_file():
            yield entry


def copy_all(params: LocalParams, card: Card | None, tree: Path, progress: Progress) -> None:
    """Copy what `path` names into `tree`, if the disk has room for it and for what archives hold.

    Raises:
        StageError: there is nothing to copy, or no room.
    """
    source = Path(params.path).expanduser()
    found = _files_or_advice(source, card, params)
    progress.total = len(found)
    todo = [(file, file.stat().st_size) for file, below in found if not (tree / below).exists()]
    if not _can_clone([file for file, _ in todo], tree):
        packed = sum(size for file, size in todo if params.unpack.enabled and is_archive(file))
        check_space(sum(size for _, size in todo), packed, tree)
    copy(source, tree, progress)


def _files_or_advice(source: Path, card: Card | None, params: LocalParams) -> list[tuple[Path, Path]]:
    try:
        return files_of(source)
    except StageError as error:
        if card is None or source.exists():
            raise
        how = card.fetch or "its card names addresses: leave out `path`"
        raise StageError(error.what, where=source, do=f"{params.card}: {how}") from None


def _can_clone(files: list[Path], tree: Path) -> bool:
    """Whether copies share the blocks of the originals, so that they take no room."""
    first = next((file for file in files if file.stat().st_size), None)
    if first is None:
        return True
    trial = tree / f".clone{PARTIAL}"
    try:
        with first.open("rb") as file:
            return _cloned(file.fileno(), trial)
    except OSError:
        return False
    finally:
        trial.unlink(missing_ok=True)


def copy(source: Path, tree: Path, progress: Progress | None = None) -> None:
    """Copy a file or folder into `tree`; what an earlier, killed call has copied is not copied again."""
    for file, below in files_of(source):
        place = tree / below
        if not _is_copy(place, file):
            copy_file(file, place)
        if progress is not None:
            progress.update(1, MiB=file.stat().st_size >> 20)


def _is_copy(place: Path, source: Path) -> bool:
    """By size and time: a file that was repaired since an earlier call is copied anew."""
    if not place.exists():
        return False
    there, wanted = place.stat(), source.stat()
    return (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)


def copy_file(source: Path, target: Path) -> None:
    """One file, whole or not at all; raises StageError if it cannot be read or changes meanwhile."""
    before = source.stat()
    try:
        with source.open("rb") as file, atomic_file(target) as partial:
            if not _cloned(file.fileno(), partial):
                with partial.open("wb") as out:
                    shutil.copyfileobj(file, out, 1 << 22)
            after = source.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise StageError("the file changes while it is copied", where=source, do="wait until it is whole")
            os.utime(partial, ns=(before.st_atime_ns, before.st_mtime_ns))
    except PermissionError:
        raise StageError("the file cannot be read", where=source, do="check its permissions") from None


def _cloned(fd: int, target: Path) -> bool:
    out = os.open(target, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        fcntl.ioctl(out, FICLONE, fd)
    except OSError:
        return False  # another file system, or one that cannot share blocks
    else:
        return True
    finally:
        os.close(out)
