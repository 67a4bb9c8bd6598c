"""Columns of an index: plain `.npy` files that are written whole and read by mapping them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.common.errors import StageError
from components.common.outputs import atomic_file


def save_array(file: Path, array: np.ndarray) -> None:
    """Write one `.npy` file whole or not at all, without pickle."""
    with atomic_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def open_column(file: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """Map a column and check it against what `index.json` promises; a short file is told here, not by a bus error."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StageError("a column of the index is missing", where=file, do="run the stage 'index' again") from None
    except (ValueError, EOFError, SyntaxError) as error:
        what = f"a column of the index is damaged, {' '.join(str(error).split())}"
        raise StageError(what, where=file, do="run the stage 'index' again") from None
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        what = f"a column of the index is {array.dtype} {array.shape}, index.json says {np.dtype(dtype)} {shape}"
        raise StageError(what, where=file, do="run the stage 'index' again")
    return array
