"""A large index costs a worker little, and gives the same rows as a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.index_scale import _write_index, building
from components.common import clip_index
from components.common.clip_index import ClipIndex
from tests.worker import in_a_worker

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_the_same_by_mapping_and_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_index(tmp_path, 1000)
    for name in ("pts_s", "offset", "video"):  # not the same in all columns
        column = np.load(tmp_path / "frames" / f"{name}.npy", mmap_mode="r+")
        column[:] = np.random.default_rng(len(name)).permutation(1000)
        column.flush()
    wanted = np.random.default_rng(0).integers(0, 1000, (90, 2))
    mapped = ClipIndex(tmp_path)
    rows = [mapped.rows(pair) for pair in wanted]
    monkeypatch.setattr(clip_index, "LARGE", 1)
    index = ClipIndex(tmp_path)
    draw = index.draw("pair")
    assert [index.rows(pair) for pair in wanted] == rows  # looks into the draws were let go several times
    assert draw[500].tolist() == [500, 503]
    assert in_a_worker(index).rows(wanted[7]) == rows[7]
    with pytest.raises(IndexError):
        index.rows([1000])


def test_a_worker_does_not_grow_with_the_index(tmp_path: Path) -> None:
    """114 MB of columns and a draw, all of which 20,000 random looks would map."""
    _write_index(tmp_path, 2_000_000)
    code = f"from bench.index_scale import worker; worker({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["resident"] < 60
    assert said["private"] < 20


def test_the_bench_builds_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    building(tmp_path, 5000, 300, 6.0)
    assert "k frames/s" in capsys.readouterr().out
    index = ClipIndex(tmp_path / "index")
    assert (len(index), len(index.draw("frame"))) == (5000, 5000)
    gaps = np.diff(index.columns["pts_s"][index.draw("pair")], axis=1)
    np.testing.assert_allclose(gaps, 0.5)
