"""Content hashes: of folders, of parameters, of the code that made a result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 22
NOT_CONTENT = ("__pycache__", ".longtake.json")  # byte code, and what a stage notes about its own output
HEX_DIGITS = 32  # 128 bits: enough against accidents, short enough to read aloud


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(path: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files of a folder in a fixed order; what is not whole yet, byte code and markers are no content.

    Links to folders are followed, but not back into a folder that holds them.
    """
    real = path.resolve()
    if real in above:
        return
    with os.scandir(
        path
    ) as found:  # of a million files, a third of the time of Path.iterdir, which asks for each again
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.endswith(".partial") or entry.name in NOT_CONTENT:
            continue
        if entry.is_dir():
            yield from files_below(path / entry.name, above | {real})
        elif entry.is_file():
            yield path / entry.name


def tree_hash(path: Path, known: Mapping[str, str] | None = None) -> str:
    """Hash of a file, or of every relative path and content of a folder.

    A file that may not be read counts by its name: whether that is trouble is for the stage to say.

    Args:
        path: file or folder.
        known: relative path -> SHA-256 of files that need not be read once more.
    """
    if path.is_file():
        return file_hash(path)[:HEX_DIGITS]
    digest, known = hashlib.sha256(), known or {}
    for file in files_below(path):
        name = file.relative_to(path).as_posix()
        try:
            content = known.get(name) or file_hash(file)
        except PermissionError:
            content = "unreadable"
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()[:HEX_DIGITS]


def json_hash(value: Any) -> str:
    """Hash of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]


def code_hash(packages: Iterable[Path]) -> str:
    """Hash of the Python and YAML files of some packages: a checkpoint must not outlive the code that wrote it."""
    digest = hashlib.sha256()
    for package in packages:
        for file in files_below(package):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(package.parent).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()[:HEX_DIGITS]
