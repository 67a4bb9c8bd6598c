"""The index reader: values, bad files, pickling, memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from components.common.clip_index import COLUMNS, ClipIndex, write_index
from components.common.errors import StageError
from tests.worker import in_a_worker


def some_columns(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    columns = {name: rng.integers(0, 100, n).astype(dtype) for name, dtype in COLUMNS.items()}
    columns["pts_s"] = np.arange(n) / 6
    return columns


@pytest.fixture
def index(tmp_path: Path) -> Path:
    pairs = np.stack([np.arange(7), np.arange(7) + 3], axis=1)
    write_index(tmp_path / "i", some_columns(10), {"pair": pairs}, {"pair": {"offsets_s": [0, 0.5]}}, {"videos": 1})
    return tmp_path / "i"


def test_what_was_written_is_read(index: Path) -> None:
    opened = ClipIndex.open(index)
    assert len(opened) == 10
    assert opened.draw_names == ("pair",)
    assert opened.meta["draws"]["pair"] == {"rows": 7, "k": 2, "offsets_s": [0, 0.5]}
    columns = some_columns(10)
    for name, dtype in COLUMNS.items():
        np.testing.assert_array_equal(opened.columns[name], columns[name])
        assert opened.columns[name].dtype == np.dtype(dtype)
    assert isinstance(opened.draw("pair"), np.memmap)
    first, second = opened.rows(opened.draw("pair")[2])
    assert (first.row, second.row) == (2, 5)
    assert second.pts_s == columns["pts_s"][5]
    assert second.offset == columns["offset"][5]
    assert type(second.offset) is int


def test_writing_twice_gives_the_same_bytes(index: Path, tmp_path: Path) -> None:
    pairs, params = ClipIndex(index).draw("pair"), {"pair": {"offsets_s": [0, 0.5]}}
    write_index(tmp_path / "again", some_columns(10), {"pair": pairs}, params, {"videos": 1})
    for file in sorted(p for p in index.rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(index)).read_bytes()


def test_a_pickled_index_maps_the_files_anew(index: Path) -> None:
    opened = ClipIndex(index)
    opened.draw("pair")
    assert len(pickle.dumps(opened)) < 1000  # the path, not the data
    np.testing.assert_array_equal(in_a_worker(opened).draw("pair"), opened.draw("pair"))


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), np.array([[0, 10]]), np.array([[-1, 0]]), np.array([0, 1])])
def test_the_writer_refuses_rows_outside_the_index(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="draw 'd'"):
        write_index(tmp_path, some_columns(10), {"d": rows})
    assert not (tmp_path / "index.json").exists()


def test_the_writer_refuses_columns_of_different_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        write_index(tmp_path, {**some_columns(10), "size": np.arange(9)}, {})


def test_frames_outside_the_index_are_refused(index: Path) -> None:
    with pytest.raises(IndexError):
        ClipIndex(index).rows([10])
    with pytest.raises(IndexError):
        ClipIndex(index).rows([-1])


def test_missing_index(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no clip index here"):
        ClipIndex(tmp_path)


def test_unknown_draw_names_the_known_ones(index: Path) -> None:
    with pytest.raises(StageError, match="no draw 'clip' in the index; it has pair"):
        ClipIndex(index).draw("clip")


@pytest.mark.parametrize("text", ["{", '{"format": 0}', "[]", "\udcff"])
def test_other_format_or_damaged_json(index: Path, text: str) -> None:
    (index / "index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StageError, match="run the stage 'index' again"):
        ClipIndex(index)


@pytest.mark.parametrize("damage", ["short", "header", "empty", "dtype", "length", "pickle", "gone"])
def test_damaged_columns(index: Path, damage: str) -> None:
    file = index / "frames" / "offset.npy"
    blob = file.read_bytes()
    if damage == "short":
        file.write_bytes(blob[:-8])
    elif damage == "header":
        file.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran" + blob[30:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "dtype":
        np.save(file, np.zeros(10, np.float32))
    elif damage == "length":
        np.save(file, np.zeros(9, np.int64))
    elif damage == "pickle":
        np.save(file, np.array([{}] * 10, dtype=object), allow_pickle=True)
    else:
        file.unlink()
    with pytest.raises(StageError, match=r"column of the index.*offset\.npy"):
        ClipIndex(index).columns["offset"]


def anonymous_kib() -> int:
    """Memory of this process that no other process can share (RssAnon): what grows when objects are made."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def _growth_while_drawing(path: Path, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    before = anonymous_kib()
    opened = ClipIndex(path)
    draw = opened.draw("pair")
    rng = np.random.default_rng(0)
    total = sum(row.size for i in rng.integers(0, len(draw), 3000) for row in opened.rows(draw[i]))
    queue.put((anonymous_kib() - before, total))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_of_a_worker_stays_flat(tmp_path: Path) -> None:
    n = 4_000_000
    columns = {name: np.zeros(n, dtype) for name, dtype in COLUMNS.items()}
    columns["size"] += 7
    write_index(tmp_path, columns, {"pair": np.stack([np.arange(n - 3), np.arange(3, n)], axis=1)})
    del columns
    queue: multiprocessing.Queue = multiprocessing.get_context("fork").Queue()  # type: ignore[type-arg]
    workers = [
        multiprocessing.get_context("fork").Process(target=_growth_while_drawing, args=(tmp_path, queue))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    on_disk_kib = sum(f.stat().st_size for f in tmp_path.rglob("*.npy")) // 1024
    assert [total for _, total in results] == [42_000, 42_000]
    assert max(growth for growth, _ in results) < 4 * 1024 < on_disk_kib / 30, (results, on_disk_kib, os.getpid())


def test_index_json_has_sorted_keys(index: Path) -> None:
    text = (index / "index.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
