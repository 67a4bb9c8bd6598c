"""Columns of an index: plain `.npy` files that are written whole and read by mapping them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


class Looks:
    """Single values of a mapped column, read by position.

    A look into a mapping makes up to 2 MiB around it count as this process's memory (Linux 6.18 maps what lies together
    in the cache), and it costs more time than the read.
    """

    def __init__(self, array: np.memmap) -> None:
        self.dtype, self._first = array.dtype, int(array.offset)
        self._fd = -1
        self._fd = os.open(str(array.filename), os.O_RDONLY | os.O_CLOEXEC)

    def at(self, rows: Iterable[int]) -> list[Any]:
        """The values of some rows, in their order."""
        size = self.dtype.itemsize
        return np.frombuffer(
            b"".join([os.pread(self._fd, size, self._first + row * size) for row in rows]), self.dtype
        ).tolist()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def let_go(arrays: Iterable[np.memmap]) -> None:
    """Unmap what was read of mapped columns; it stays in the machine's cache, and comes back when it is read again."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
