"""Whole local copies of artifacts, kept for the next stage that reads them.

A copy is named by address and content, fetched once a machine while others wait, and stays until room is needed:
copies that no process uses go first, the least recently used before the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from components.common import hashing, outputs
from components.common.errors import StageError
from components.common.s3.address import name_of
from components.common.s3.artifact import Artifact
from components.common.s3.fetch import fetch_all
from components.common.s3.store import Store

_in_use: dict[Path, int] = {}  # folder of a copy -> its lock, held until this process and its children end


def local_copy(address: str, root: Path, store: Store | None = None) -> Path:
    """The file or folder at `address`, fetched if it is not at hand; what a killed call has fetched is kept.

    Args:
        address: of an object, or of everything below a prefix.
        root: where copies are kept.
        store: how to reach it; default: as the environment says.

    Raises:
        StageError: the store refuses or stays away, nothing whole is there, or what came is not what its marker says.
    """
    store = store or Store()
    artifact = Artifact.find(store, address)
    folder = root / hashing.json_hash([address, artifact.content])
    copy = folder / name_of(address)
    folder.mkdir(parents=True, exist_ok=True)
    while True:  # until it is there and locked: another process may remove it before we hold the lock
        lock = _in_use.setdefault(folder, _open_lock(folder))
        fcntl.flock(lock, fcntl.LOCK_SH)
        if copy.exists():
            os.utime(folder)
            return copy
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            _make_room(root, store.params.cache_bytes - sum(obj.size for obj in artifact.objects.values()))
            _fetch(store, artifact, copy)


def _fetch(store: Store, artifact: Artifact, copy: Path) -> None:
    partial, parts = outputs.stage_path(copy), copy.with_name("parts")
    print(f"[s3] fetching {artifact.address}", flush=True)
    wanted = [(obj, partial / name if name else partial) for name, obj in artifact.objects.items()]
    fetch_all(store, wanted, parts)
    _check(partial, artifact)
    outputs.flush(partial)
    partial.rename(copy)
    outputs.remove(parts)


def _check(partial: Path, artifact: Artifact) -> None:
    """Compare every folder that has a marker with the hash in it."""
    for marker in partial.rglob(outputs.MARKER) if partial.is_dir() else ():
        said = json.loads(marker.read_text(encoding="utf-8")).get("content")
        if said != hashing.tree_hash(marker.parent):
            below = marker.parent.relative_to(partial)
            outputs.remove(partial)
            what = "what lies in the store is not what its marker says"
            raise StageError(what, where=f"{artifact.address}/{below}", do="upload it again")


def _make_room(root: Path, limit: int) -> None:
    """Remove copies that nobody uses until the others take `limit` bytes at most."""
    copies = [(folder.stat().st_mtime, _bytes_below(folder), folder) for folder in root.iterdir() if folder.is_dir()]
    total = sum(size for _, size, _ in copies)
    for _, size, folder in sorted(copies):
        if total > limit and folder not in _in_use:
            with _unused(folder) as mine:
                if mine:
                    outputs.remove(folder)
                    total -= size


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    lock = _open_lock(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _open_lock(folder: Path) -> int:
    return os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
