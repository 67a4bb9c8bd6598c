"""The stage as a whole: same bytes again, after a kill, and one clear line for bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.clip_index import ClipIndex
from components.common.frame_store import FrameStore, FrameStoreWriter, VideoRow
from components.common.stage import main
from components.index import frame_prints
from components.index.__main__ import STAGE, run

from .conftest import jpeg, make_store, picture

ROOT = Path(__file__).resolve().parents[2]
DRAWS = {
    "frame": {"offsets_s": [0]},
    "pair": {"offsets_s": [0, 0.5]},
    "clip": {"n_frames": 4, "gap_s": 0.5},
    "triple": {"ranges_s": [[-1.0, -0.3], [0.3, 1.0]]},
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "frames", {f"clip{i}": picture(i) for i in range(4)}, n=18)
    (tmp_path / "benchmarks" / "vos").mkdir(parents=True)
    (tmp_path / "benchmarks" / "vos" / "a.jpg").write_bytes(jpeg(picture(99)))
    params = {"seed": 3, "index": {"c": {"draws": DRAWS, "val_share": 0.3}}}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    return tmp_path


def arguments(out: str = "out/c") -> list[str]:
    places = ["--frames", "frames", "--benchmarks", "benchmarks", "--index", out, "--leakage", f"{out}.leakage.json"]
    return ["--corpus", "c", *places]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an index by its path in it, and the leakage report."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {**files, "leakage": folder.with_name(f"{folder.name}.leakage.json").read_bytes()}


def fails(capfd: pytest.CaptureFixture[str], *more: str) -> str:
    """Run with bad input; returns the one line of the error."""
    assert main(STAGE, run, [*arguments(), *more]) == 2
    error = capfd.readouterr().err.strip()
    assert "\n" not in error
    assert not Path("out/c").exists()
    assert not Path("out/c.leakage.json").exists()
    return error


def test_what_an_index_holds(world: Path) -> None:
    assert main(STAGE, run, arguments()) == 0
    index, store = ClipIndex("out/c"), FrameStore("frames")
    assert len(index) == store.n_frames == 72
    for name in ("video", "pts_s", "shard", "offset", "size", "height", "width"):
        np.testing.assert_array_equal(index.columns[name], store.frames[name].to_numpy())
    assert index.draw_names == ("clip", "frame", "pair", "triple")
    held_out = np.flatnonzero(index.columns["split"] == 1)
    assert 0 < len(held_out) < 72
    for name in index.draw_names:
        draw = index.draw(name)
        assert not np.isin(draw, held_out).any()
        assert (np.diff(index.columns["segment"][draw], axis=1) == 0).all()
    gaps = np.diff(index.columns["pts_s"][index.draw("clip")], axis=1)
    assert np.abs(gaps - 0.5).max() <= 0.1
    for row in index.rows(index.draw("pair")[5]):
        assert store.read(row.shard, row.offset, row.size)[:2] == b"\xff\xd8"
    prints = np.load("out/c/fingerprints.npy", allow_pickle=False)
    assert prints["frame"].tolist() == [18 * video + 6 * second for video in range(4) for second in range(3)]
    stats = json.loads(Path("out/c/stats.json").read_text())
    assert stats["draws"]["pair"]["rows"] == len(index.draw("pair"))


def test_no_pair_spans_a_cut(world: Path) -> None:
    table = pq.read_table("frames/frames.parquet")
    cut = np.zeros(72, dtype=bool)
    cut[[5, 30]] = True
    pq.write_table(table.set_column(table.column_names.index("cut"), "cut", pa.array(cut)), "frames/frames.parquet")
    assert main(STAGE, run, [*arguments(), "--set", "val_share=0"]) == 0
    index = ClipIndex("out/c")
    crossing = [pair for pair in index.draw("pair").tolist() for at in (5, 30) if pair[0] < at <= pair[1]]
    assert crossing == []
    assert len(index.draw("pair")) == 4 * 15 - 2 * 3
    assert index.columns["segment"].tolist() == [0] * 5 + [1] * 13 + [2] * 12 + [3] * 6 + [4] * 18 + [5] * 18


def test_again_and_with_other_workers_the_same_bytes(world: Path) -> None:
    assert main(STAGE, run, arguments()) == 0
    assert main(STAGE, run, [*arguments("out/d"), "--set", "fingerprint.workers=3"]) == 0
    assert tree(Path("out/c")) == tree(Path("out/d"))
    assert main(STAGE, run, arguments()) == 0
    assert tree(Path("out/c")) == tree(Path("out/d"))


def test_an_interrupted_run_goes_on_from_its_last_block(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_prints, "BLOCK", 4)
    real, seen = frame_prints.fingerprint, []

    def counted(image: bytes, stop: int) -> np.ndarray:
        seen.append(image)
        if len(seen) == stop:
            raise KeyboardInterrupt
        return real(image)

    assert main(STAGE, run, arguments("out/d")) == 0
    monkeypatch.setattr(frame_prints, "fingerprint", lambda image: counted(image, stop=10))
    assert main(STAGE, run, [*arguments(), "--set", "fingerprint.workers=1"]) == 130
    assert not Path("out/c").exists()
    seen.clear()
    monkeypatch.setattr(frame_prints, "fingerprint", lambda image: counted(image, stop=-1))
    assert main(STAGE, run, [*arguments(), "--set", "fingerprint.workers=1"]) == 0
    assert len(seen) == 12 - 2 * 4
    assert tree(Path("out/c")) == tree(Path("out/d"))


@pytest.mark.slow
def test_killed_at_random_instants_then_run_again(world: Path) -> None:
    command = [sys.executable, "-m", "components.index", *arguments()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    start = time.monotonic()
    subprocess.run([*command[:3], *arguments("out/d")], env=env, check=True, capture_output=True)
    whole_s = time.monotonic() - start
    for _ in range(4):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(0.2, 1.0)) * whole_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert tree(Path("out/c")) == tree(Path("out/d"))
    assert not list(Path("out").rglob("*.partial"))


def test_missing_folders(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "does not exist: nowhere" in fails(capfd, "--frames", "nowhere")
    (world / "empty").mkdir()
    assert "no frame store here: empty" in fails(capfd, "--frames", "empty")


def test_a_store_without_frames(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FrameStoreWriter(world / "bare") as store:
        store.add(VideoRow("a", "a.mp4", status="bad", reason="no video stream"))
    assert "the frame store holds no frames: bare" in fails(capfd, "--frames", "bare")


def test_an_impossible_gap_is_told_before_any_work(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = fails(capfd, "--set", "draws.pair.offsets_s=[0, 9]")
    assert "draw 'pair' is empty" in error
    assert "frames are 0.167 s apart and the longest stretch without a cut is 2.83 s" in error


def test_a_damaged_shard(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = world / "frames" / "shard-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:600] + bytes(3000) + whole[3600:])
    assert "a frame does not decode: video clip0, 0.000 s: shard 0" in fails(capfd)
    shard.write_bytes(whole[:5000])
    assert "shard-000000.tar" in fails(capfd)


@pytest.mark.parametrize("damage", ["truncated", "column", "order", "null", "time", "video"])
def test_a_damaged_table(world: Path, capfd: pytest.CaptureFixture[str], damage: str) -> None:
    file = world / "frames" / "frames.parquet"
    table = pq.read_table(file)
    change = {
        "column": lambda: table.drop_columns(["pts_s"]),
        "order": lambda: table.take(np.r_[1, 0, 2:72]),
        "null": lambda: table.set_column(2, "pts_s", pa.array([None] * 72, pa.float64())),
        "time": lambda: table.set_column(2, "pts_s", pa.array([float("nan")] * 72)),
        "video": lambda: table.set_column(0, "video", pa.array([9] * 72, pa.int32())),
    }
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        pq.write_table(change[damage](), file)
    assert "frames.parquet" in fails(capfd)


@pytest.mark.skipif(not Path("/proc/self/mounts").exists() or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_said_so(
    world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = world / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        assert main(STAGE, run, arguments("small/c")) == 4
        assert "the disk is full" in capfd.readouterr().err
        assert not (small / "c").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert main(STAGE, run, arguments("small/c")) == 0


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = "('cv2', 'scipy', 'pyarrow', 'PIL', 'mlflow')"
    code = f"import sys, components.index.__main__; print([m for m in {heavy} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
