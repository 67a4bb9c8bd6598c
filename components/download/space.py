"""Free space, before anything is fetched: one line that says how much is needed and how much is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.common.errors import ExitCode, StageError

GIB = 2**30


def check_space(fetched: int, unpacked: int, folder: Path) -> None:
    """Refuse to begin what cannot end well.

    Args:
        fetched: bytes still to be fetched.
        unpacked: bytes that archives among them will take beside them.
        folder: where they go (or will, once it is made).

    Raises:
        StageError: the disk lacks room.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    missing = fetched + unpacked - free
    if missing > 0:
        parts = f"{fetched / GIB:,.1f} to fetch" + (f", {unpacked / GIB:,.1f} to unpack" if unpacked else "")
        what = f"the disk lacks {missing / GIB:,.1f} GiB ({parts}; {free / GIB:,.1f} are free)"
        do = "free some space, or put LONGTAKE_CACHE and the data on another disk"
        raise StageError(what, where=place, do=do, code=ExitCode.NO_ROOM)
