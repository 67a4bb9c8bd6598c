"""All-or-nothing outputs: written beside their place, flushed, and renamed in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from components.common import hashing
from components.common.errors import StageError

PARTIAL = ".partial"  # suffix of what is not whole yet; ignored by git and DVC
MARKER = ".longtake.json"  # says that a stage made this folder, so that a stage may replace it


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def stage_path(path: Path) -> Path:
    """Where an output is built: beside its place, so that the last step is a rename on one file system."""
    return path.with_name(f".{path.name}{PARTIAL}")


def put_in_place(partial: Path, path: Path) -> None:
    """Move a finished output (file or folder) to `path`, replacing an older output of the same stage."""
    flush(partial)
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f".{path.name}.old{PARTIAL}")
        remove(old)
        path.rename(old)
        partial.rename(path)
        remove(old)
    else:
        partial.replace(path)


def flush(path: Path) -> None:
    """fsync a file, or every file of a folder: a rename must never be on disk before the data it names."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove(path: Path) -> None:
    """Delete a file or folder of our own making, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mark(folder: Path, stage: str, output: str, content: str | None = None) -> None:
    """Leave the marker in a finished output folder: who made it, and `content` or the hash of what it holds."""
    facts = {"made_by": stage, "output": output, "content": content or hashing.tree_hash(folder), **_extent(folder)}
    (folder / MARKER).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")


def content_hash(path: Path) -> str:
    """Hash of an input, wherever it lies: from its marker where nothing was added or taken since, else taken anew."""
    try:
        facts = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if {key: facts[key] for key in ("files", "bytes")} == _extent(path):
            return str(facts["content"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return hashing.tree_hash(path)


def _extent(folder: Path) -> dict[str, int]:
    sizes = [file.stat().st_size for file in hashing.files_below(folder)]
    return {"files": len(sizes), "bytes": sum(sizes)}


def check_new_output(path: Path, *, like: str = MARKER) -> None:
    """Refuse to replace something that is not an earlier output: a user's folder is never overwritten.

    Args:
        path: the place of the output.
        like: name of a file that every earlier output holds.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / like).exists():
        raise StageError("the output folder holds something else", where=path, do="name an empty or new folder")
