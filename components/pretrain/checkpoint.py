"""Checkpoints: written whole or not at all, checked before use, and refused by any run but their own."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.common.errors import StageError
from components.common.outputs import atomic_file

LAST, PREVIOUS = "last.pt", "previous.pt"
FORMAT = 1
State = dict[str, Any]


class CheckpointStore:
    """The last two checkpoints of one run, in a folder that outlives a killed process.

    Args:
        folder: where they lie; named after the fingerprint of parameters, data and code.
        identity: what the run's result depends on, nested by name; a checkpoint of another identity is refused.
    """

    def __init__(self, folder: Path, identity: State) -> None:
        self.folder, self.identity = folder, identity

    @property
    def last(self) -> Path:
        return self.folder / LAST

    def save(self, state: State) -> Path:
        """Write `last.pt`; the one before stays as `previous.pt`. A kill at any instant leaves a good one."""
        last = self.last
        with atomic_file(last) as partial:
            with partial.open("wb") as stream:  # given a path, torch reports a full disk as a defect of its own
                torch.save({"format": FORMAT, "identity": self.identity, **state}, stream)
            if last.exists():
                last.replace(self.folder / PREVIOUS)
        return last

    def load(self, device: torch.device) -> State | None:
        """The newest checkpoint that is whole, or None when there is none."""
        files = [file for file in (self.last, self.folder / PREVIOUS) if file.exists()]
        for file in files:
            if is_whole(file):
                return read(file, self.identity, device)
            if file != files[-1]:
                file.unlink()  # or the next save would put it in the good one's place
        if files:
            raise StageError("no checkpoint of this run is readable", where=files[0], do="delete it to start anew")
        return None


def is_whole(file: Path) -> bool:
    """Whether every member of the file has the checksum it was written with (torch.save writes a zip)."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError):
        return False


def read(file: Path, identity: State, device: torch.device) -> State:
    """Read a checkpoint of exactly this run; StageError names the first thing that differs."""
    if not file.is_file():
        raise StageError("no such checkpoint", where=file)
    if not is_whole(file):
        raise StageError("the checkpoint is truncated or damaged", where=file)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # whatever a stranger's file makes the reader do
        raise StageError(f"not a checkpoint, {' '.join(str(error).split())[:120]}", where=file) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StageError("not a checkpoint of this trainer", where=file)
    other = differences(state["identity"], identity)
    if other:
        raise StageError(f"the checkpoint belongs to another run: {other}", where=file)
    return state


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], at_most: int = 3) -> str:
    """`trainer.lr is 0.1 there and 0.2 here`, for the first few keys that differ; empty when none does."""
    a, b = flat(theirs), flat(ours)
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    shown = [f"{name} is {a.get(name, 'absent')!r} there and {b.get(name, 'absent')!r} here" for name in names]
    more = [f"{len(names) - at_most} more"] if len(names) > at_most else []
    return ", ".join([*shown[:at_most], *more])


def flat(values: Mapping[str, Any], prefix: str = "") -> State:
    """Nested mappings as one, keys joined by dots."""
    result: State = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result
