"""Same seed, same bytes: whatever the number of workers, and after a kill at any instant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from components.common.errors import ExitCode, StageError
from components.common.progress import Progress
from components.download.world import WorldParams, write_world
from components.download.world.video import write_video
from components.download.world.workers import run_jobs

SECTION = {
    "layouts": ["videos", "davis", "jhmdb", "coco"], "clips": 2, "train_clips": 1, "val_clips": 1, "clip_s": 0.6,
    "fps": 5, "width_px": 96, "height_px": 64, "stills_per_clip": 2,
}  # fmt: skip
CHILD = """
import sys, json, pathlib
from components.common.progress import Progress
from components.download.world import WorldParams, write_world
if __name__ == "__main__":
    out, scratch = map(pathlib.Path, sys.argv[1:3])
    with Progress(0, "clips") as progress:
        write_world(WorldParams(**json.loads(sys.argv[3])), out, scratch, progress)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def write(out: Path, scratch: Path, **changes: object) -> dict[str, bytes]:
    out.mkdir(parents=True)
    with Progress(0, "clips") as progress:
        write_world(WorldParams(**{**SECTION, **changes}), out, scratch, progress)
        assert progress.count == progress.total == 8
    return contents(out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return write(folder / "out", folder / "scratch", workers=1)


def test_bytes_do_not_depend_on_the_workers(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    assert write(tmp_path / "out", tmp_path / "scratch", workers=2) == undisturbed
    assert len(undisturbed) > 25


def test_another_seed_is_another_world(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    other = write(tmp_path / "out", tmp_path / "scratch", workers=1, seed=1)
    assert set(other) - set(undisturbed) == set()  # the same names
    pictures = [name for name in undisturbed if name.endswith((".mp4", ".jpg"))]
    assert all(other[name] != undisturbed[name] for name in pictures)


def test_more_clips_leave_the_first_ones_as_they_are(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    more = WorldParams(**{**SECTION, "clips": 3, "layouts": ["videos"], "workers": 1})
    with Progress(0, "clips") as progress:
        write_world(more, tmp_path / "out", tmp_path / "scratch", progress)
    for number in range(2):
        name = f"clip-{number:06d}.mp4"
        assert (tmp_path / "out" / name).read_bytes() == undisturbed[f"videos/{name}"]


@pytest.mark.parametrize(
    ("workers", "kills"), [(2, (2,)), pytest.param(1, (1, 4, 6), marks=pytest.mark.slow)], ids=["pool", "alone"]
)
def test_killed_in_the_middle_then_run_again(
    undisturbed: dict[str, bytes], tmp_path: Path, workers: int, kills: tuple[int, ...]
) -> None:
    scratch, script = tmp_path / "scratch", tmp_path / "child.py"
    script.write_text(CHILD)
    for done in kills:
        out = tmp_path / f"killed-{done}"
        out.mkdir()
        child = subprocess.Popen(
            [sys.executable, str(script), str(out), str(scratch), json.dumps({**SECTION, "workers": workers})],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.DEVNULL,
        )
        family = _wait_for(scratch, done, child)
        child.send_signal(signal.SIGKILL)
        child.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive  # workers do not outlive their parent
    before = {file: file.stat().st_mtime_ns for file in finished(scratch)}
    assert write(tmp_path / "out", scratch, workers=1) == undisturbed
    assert before and all(file.stat().st_mtime_ns == at for file, at in before.items())  # nothing is done twice
    assert not list(scratch.rglob("*.partial"))


def finished(scratch: Path) -> list[Path]:
    return [file for file in scratch.glob("*/*/facts.json") if not file.parent.name.startswith(".")]


def _wait_for(scratch: Path, done: int, child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Until `done` clips are finished; returns the child's descendants."""
    deadline = time.monotonic() + 60
    while len(finished(scratch)) < done and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []


class Fails:
    """A job with an error of the user's kind."""

    def run(self) -> int:
        raise StageError("no such toy", where="shelf", code=ExitCode.NO_ROOM)


class Dies:
    """A job whose process is killed, as when memory runs out."""

    def run(self) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_an_error_in_a_worker_reaches_the_parent_whole() -> None:
    with pytest.raises(StageError) as caught:
        list(run_jobs([Fails(), Fails()], 2))
    assert str(caught.value) == "no such toy: shelf" and caught.value.code == ExitCode.NO_ROOM


def test_a_killed_worker_is_an_error_not_a_hang() -> None:
    with pytest.raises(StageError, match="a worker was killed"):
        list(run_jobs([Dies(), Dies()], 2))


def test_ffmpegs_own_words_are_passed_on(tmp_path: Path) -> None:
    params = WorldParams(width_px=32, height_px=32)
    with pytest.raises(StageError, match="ffmpeg could not write a video"):
        write_video([np.zeros((32, 32, 3), np.uint8)] * 200, tmp_path / "nowhere" / "a.mp4", params)
