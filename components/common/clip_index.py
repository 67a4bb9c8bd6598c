"""The clip index: which frames may be drawn together, as memory-mapped columns.

A corpus of a million videos has 10^8 frames; one Python object a frame would cost every loader worker tens of
gigabytes, and forked workers would copy them page by page as reference counts change. Plain `.npy` columns are mapped
instead: opening reads a few hundred bytes, and the pages that are touched are shared by all workers of a machine.

    frames/<column>.npy    one row a frame, in the frame store's order (video, time)
    draws/<name>.npy       int64 (N, k): rows of `frames` that may be drawn together
    objects/<column>.npy   objects in the frames, where the corpus tells of them (see object_index.py)
    index.json             version, counts, parameters of each draw, videos left out
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.columns import Looks, let_go, open_column, save_array
from components.common.errors import StageError
from components.common.incoming import local_path
from components.common.object_index import ObjectIndex, write_objects
from components.common.outputs import write_text

FORMAT = 1
INDEX_FILE = "index.json"
TRAIN, VAL, EXCLUDED = 0, 1, 2  # values of the column `split`; excluded: the video also occurs in a benchmark
COLUMNS: dict[str, str] = {
    "video": "<i4",  # row of the store's videos.parquet
    "pts_s": "<f8",  # seconds from the video's first frame
    "shard": "<i4",
    "offset": "<i8",  # first byte of the JPEG in its shard
    "size": "<i4",  # bytes
    "height": "<i4",
    "width": "<i4",
    "segment": "<i4",  # running number of the cut-free stretch
    "split": "|i1",
}
DRAW_DTYPE = "<i8"
LARGE = 1_000_000  # frames: all columns of a smaller index are less than 50 MB
LOOKS_MAPPED = 16  # looks into the draws of a large index after which their pages are let go: some 30 MB


class FrameRow(NamedTuple):
    """Where one frame lies and what it is; `row` is its row in the index."""

    row: int
    video: int
    pts_s: float
    shard: int
    offset: int
    size: int
    height: int
    width: int


class ClipIndex:
    """Reader of an index folder. Cheap to open, safe to fork and to pickle (a copy maps the files anew).

    Columns are mapped, so an index at an `s3://` address is fetched whole, once a machine.

    Attributes:
        meta: what `index.json` says.
        columns: the frame columns.
        objects: the objects in the frames; None where the corpus tells of none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = local_path(path)
        self.meta = _read_meta(self.path)
        self.columns = Columns(self.path / "frames", int(self.meta["frames"]))
        objects = self.meta.get("objects")
        self.objects = None if objects is None else ObjectIndex(self.path, objects, len(self))
        self._draws: dict[str, np.memmap] = {}
        self._looks = 0

    @classmethod
    def open(cls, path: Path | str) -> ClipIndex:
        """Open the index at `path`; raises StageError when it is missing, of another format, or damaged."""
        return cls(path)

    def __len__(self) -> int:
        return int(self.meta["frames"])

    def __reduce__(self) -> tuple[type[ClipIndex], tuple[Path]]:
        return ClipIndex, (self.path,)

    @property
    def draw_names(self) -> tuple[str, ...]:
        """Names of the draws, sorted."""
        return tuple(sorted(self.meta["draws"]))

    def draw(self, name: str) -> np.memmap:
        """Rows of frames that may be drawn together: int64 (N, k), in the order of the draw's offsets."""
        if name not in self.meta["draws"]:
            known = ", ".join(self.draw_names)
            raise StageError(f"no draw '{name}' in the index; it has {known}", where=self.path, do="see index.draws")
        if name not in self._draws:
            entry = self.meta["draws"][name]
            file = self.path / "draws" / f"{name}.npy"
            self._draws[name] = open_column(file, DRAW_DTYPE, (int(entry["rows"]), int(entry["k"])))
        return self._draws[name]

    def rows(self, rows: npt.ArrayLike) -> list[FrameRow]:
        """Places of the frames `rows` (any shape, read flat), in that order; raises IndexError outside the index."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"frames {wanted.tolist()} of {len(self)}")
        values = [self.columns.values_at(name, wanted) for name in FrameRow._fields[1:]]
        self._looks += 1
        if len(self) >= LARGE and self._looks % LOOKS_MAPPED == 0:
            let_go(self._draws.values())
        return [FrameRow(*place) for place in zip(wanted.tolist(), *values, strict=True)]


class Columns(Mapping[str, np.memmap]):
    """The frame columns by name, each mapped at first use."""

    def __init__(self, folder: Path, n_frames: int) -> None:
        self.folder, self.n_frames = folder, n_frames
        self._open: dict[str, np.memmap] = {}
        self._looks: dict[str, Looks] = {}

    def __getitem__(self, name: str) -> np.memmap:
        if name not in self._open:
            self._open[name] = open_column(self.folder / f"{name}.npy", COLUMNS[name], (self.n_frames,))
        return self._open[name]

    def values_at(self, name: str, rows: np.ndarray) -> list[Any]:
        """Values of some rows, in their order; of a large index without mapping anything."""
        if self.n_frames < LARGE:  # asarray: a view without memmap's own bookkeeping, which costs more than the read
            return list(np.asarray(self[name])[rows].tolist())
        if name not in self._looks:
            self._looks[name] = Looks(self[name])
        return self._looks[name].at(rows.tolist())

    def __iter__(self) -> Any:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


def write_index(
    path: Path,
    columns: Mapping[str, npt.ArrayLike],
    draws: Mapping[str, npt.ArrayLike],
    draw_params: Mapping[str, Mapping[str, Any]] | None = None,
    extra: Mapping[str, Any] | None = None,
    objects: tuple[Mapping[str, npt.ArrayLike], list[str]] | None = None,
) -> None:
    """Write an index folder; `index.json` comes last, so a folder without it is no index.

    Args:
        path: the folder, made if need be.
        columns: every column of `COLUMNS`, one value a frame.
        draws: per name an integer array (N, k) of frame rows.
        draw_params: what made each draw, kept in `index.json` (offsets in seconds).
        extra: further entries of `index.json`.
        objects: columns of `object_index.DTYPES`, and the categories' names.
    """
    arrays = {name: np.ascontiguousarray(columns[name], dtype=dtype) for name, dtype in COLUMNS.items()}
    n_frames = len(arrays["video"])
    shapes = {name: array.shape for name, array in arrays.items()}
    if set(shapes.values()) != {(n_frames,)}:
        raise ValueError(f"columns differ in length: {shapes}")
    for name, array in arrays.items():
        save_array(path / "frames" / f"{name}.npy", array)
    entries: dict[str, Any] = {}
    for name, draw in draws.items():
        rows = np.ascontiguousarray(draw, dtype=DRAW_DTYPE)
        if rows.ndim != 2 or not rows.size or rows.min() < 0 or rows.max() >= n_frames:
            raise ValueError(f"draw '{name}' must be a non-empty (N, k) array of rows below {n_frames}")
        save_array(path / "draws" / f"{name}.npy", rows)
        entries[name] = {"rows": rows.shape[0], "k": rows.shape[1], **(draw_params or {}).get(name, {})}
    meta = {"format": FORMAT, "frames": n_frames, "draws": entries, **(extra or {})}
    if objects is not None:
        meta["objects"] = write_objects(path, *objects, n_frames)
    write_text(path / INDEX_FILE, json.dumps(meta, indent=1, sort_keys=True) + "\n")


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / INDEX_FILE
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StageError("no clip index here", where=path, do="run the stage 'index' first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StageError("the index is damaged", where=file, do="run the stage 'index' again") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else None
        what = f"the index has format {found}, this version reads {FORMAT}"
        raise StageError(what, where=path, do="run the stage 'index' again")
    return meta
