"""The index files of T-CoRe's Kinetics-400 (Liu et al. 2025, arXiv:2503.15096, released code), read and written.

    entries-TRAIN.npy      one row a video: video_id <U25, class_index <u4, class_id U, class_name U
    class-ids-TRAIN.npy    class_index -> "class_" + number of the class in labels.txt
    class-names-TRAIN.npy  class_index -> name
    labels.txt             `number,name_of_class` a line, in any order

`class_index` is the alphabetical rank of the class folder. Nothing here is pickled.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.common.outputs import atomic_file

FIELDS = ("video_id", "class_index", "class_id", "class_name")
ID_LETTERS = 25  # a YouTube id of 11 letters and _ssssss_eeeeee
LABELS = "labels.txt"
ENDINGS = (".mp4", ".webm", ".mkv", ".avi")


class Entry(NamedTuple):
    """A video: its name and the folder of its class."""

    video_id: str
    class_name: str


class Lists(NamedTuple):
    """What the three files say: entries (structured, N), and id and name of each class by its index."""

    entries: NDArray[Any]
    class_ids: NDArray[Any]
    class_names: NDArray[Any]


def read_labels(file: Path) -> dict[str, int]:
    """Number of each class by its name; raises StageError naming the first line that is wrong."""
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError):
        raise StageError("no list of classes", where=file) from None
    numbers: dict[str, int] = {}
    for at, row in enumerate(rows, 1):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip().isdecimal() or row[1].strip() in numbers:
            raise StageError("expected `number,name_of_class`, each name once", where=f"{file}, line {at}")
        numbers[row[1].strip()] = int(row[0])
    return numbers


def find_entries(split: Path) -> list[Entry]:
    """The videos below class folders: `<class>/<video>.mp4`, or `<class>/<video>/` with frames; by class and name."""
    found = []
    for folder in sorted(entry for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        inner = sorted(os.scandir(folder), key=lambda entry: entry.name)
        names = [e.name if e.is_dir() else Path(e.name).stem for e in inner if e.is_dir() or _is_video(e.name)]
        found += [Entry(name, folder.name) for name in dict.fromkeys(names)]
    return found


def _is_video(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def make_lists(entries: Sequence[Entry], labels: Mapping[str, int]) -> Lists:
    """The three arrays; raises StageError for a class folder that labels.txt does not name."""
    names = sorted({entry.class_name for entry in entries})
    unknown = [name for name in names if name not in labels]
    if unknown:
        what = f"{len(unknown)} of {len(names)} class folders are not in {LABELS}: {', '.join(unknown[:3])}"
        raise StageError(what, do=f"the folders' names must be those of {LABELS}")
    index = {name: at for at, name in enumerate(names)}
    rows = [(e.video_id, index[e.class_name], f"class_{labels[e.class_name]}", e.class_name) for e in entries]
    longest = max([ID_LETTERS, *(len(entry.video_id) for entry in entries)])
    ids, plain = np.array([f"class_{labels[name]}" for name in names], str), np.array(names, str)
    kinds = (f"<U{longest}", "<u4", ids.dtype.str, plain.dtype.str)
    return Lists(np.array(rows, dtype=list(zip(FIELDS, kinds, strict=True))), ids, plain)


def write_lists(lists: Lists, folder: Path, split: str) -> None:
    """Write the three files of a split, such as TRAIN."""
    for stem, array in zip(("entries", "class-ids", "class-names"), lists, strict=True):
        with atomic_file(folder / f"{stem}-{split}.npy") as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def read_lists(folder: Path, split: str) -> Lists:
    """Read the three files of a split, also those that T-CoRe's own tool wrote."""
    entries, ids, names = (_load(folder / f"{stem}-{split}.npy") for stem in ("entries", "class-ids", "class-names"))
    _check_entries(entries, folder / f"entries-{split}.npy")
    if len(ids) != len(names) or (len(entries) and int(entries["class_index"].max()) >= len(names)):
        raise StageError("entries and classes disagree", where=folder, do="write the three files anew")
    return Lists(entries, ids, names)


def read_entries(file: Path) -> list[Entry]:
    """The videos that `entries-*.npy` names, in its order."""
    rows = _load(file)
    _check_entries(rows, file)
    return [Entry(str(row["video_id"]), str(row["class_name"])) for row in rows]


def _load(file: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StageError("no such list", where=file) from None
    except (ValueError, EOFError, OSError) as error:
        raise StageError(f"not an array without pickles, {' '.join(str(error).split())[:120]}", where=file) from None
    return array


def _check_entries(rows: NDArray[Any], file: Path) -> None:
    if rows.dtype.names is None or set(FIELDS) - set(rows.dtype.names):
        raise StageError(f"expected a structured array of {', '.join(FIELDS)}", where=file)
