"""From objects to files: in parts, each pinned to the object's ETag, resumable part by part.

boto3's own transfer manager starts a broken object again from zero.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from components.common.errors import ExitCode, StageError
from components.common.hashing import json_hash
from components.common.s3.params import GIB
from components.common.s3.store import Object, Store


def fetch(store: Store, obj: Object, target: Path, parts: Path) -> None:
    """Fetch one object to `target`; parts that an earlier, killed call has fetched are not fetched again.

    Args:
        store: where it lies, with the size of a part and the number in flight.
        obj: the object as it was listed.
        target: the file; it appears whole or not at all.
        parts: a folder that outlives a killed process, on the file system of `target`.

    Raises:
        StageError: the store refuses or stays away, the object was replaced meanwhile, or the disk lacks room.
    """
    part = parts / f"{json_hash([obj.address, obj.etag, store.params.part_mib])}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    _check_room(obj, part)
    log = part.with_suffix(".jsonl")
    done = _done(log) if part.exists() else set()
    starts = [start for start in range(0, obj.size, store.params.part_bytes) if start not in done]
    with part.open("r+b" if part.exists() else "w+b") as file, log.open("a" if done else "w") as told:
        file.truncate(obj.size)
        store.side_by_side(partial(_part, store, obj, start, file.fileno(), told.fileno()) for start in starts)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(part, target)
    log.unlink()


def fetch_all(
    store: Store, wanted: list[tuple[Object, Path]], parts: Path, told: Callable[[Object], None] = lambda obj: None
) -> None:
    """Fetch objects to files; a file that is there in the object's size is from an earlier call and stays.

    Objects of one part go side by side, larger ones one after another with their parts side by side.
    """
    missing = [(obj, path) for obj, path in wanted if not (path.exists() and path.stat().st_size == obj.size)]
    for obj in {obj for obj, _ in wanted} - {obj for obj, _ in missing}:
        told(obj)
    small = [pair for pair in missing if pair[0].size <= store.params.part_bytes]
    store.side_by_side(partial(_small, store, obj, path, told) for obj, path in small)
    for obj, path in missing:
        if obj.size > store.params.part_bytes:
            fetch(store, obj, path, parts)
            told(obj)


def _small(store: Store, obj: Object, target: Path, told: Callable[[Object], None]) -> None:
    data = store.read(obj)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.partial")
    unfinished.write_bytes(data)
    unfinished.replace(target)
    told(obj)


def _part(store: Store, obj: Object, start: int, fd: int, log: int) -> None:
    os.pwrite(fd, store.read(obj, start, min(start + store.params.part_bytes, obj.size)), start)
    os.fsync(fd)  # a part counts as done only when its bytes are safe
    os.write(log, f"{start}\n".encode())


def _done(log: Path) -> set[int]:
    """Starts of the parts that are safe; a line cut by a kill is none."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    return {json.loads(line) for line in lines if line.isdigit()}


def _check_room(obj: Object, part: Path) -> None:
    have = part.stat().st_blocks * 512 if part.exists() else 0
    missing = obj.size - have - shutil.disk_usage(part.parent).free
    if missing > 0:
        what = f"the disk lacks {missing / GIB:.1f} GiB for this object"
        raise StageError(what, where=obj.address, do="free some space and run it again", code=ExitCode.NO_ROOM)
