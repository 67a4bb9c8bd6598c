"""Two runs never work in the same folder of resumable work, and never clear away each other's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.claims import Claim
from components.common.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import sys, time
from pathlib import Path
from components.common.config import StageParams
from components.common.stage import Port, Stage, main

class P(StageParams):
    lr: float = 1.0

STAGE = Stage(name="pretrain", help="a stage for tests", params=P, keys=("method",), outputs={"model": Port("out")})

def run(ctx):
    (ctx.cache / "work").write_text("hours of it")
    ctx.claim(ctx.cache.parent / "checkpoints-of-both")
    while Path("hold").exists():
        time.sleep(0.02)
    (ctx.outputs["model"] / "m").write_text("m")

sys.exit(main(STAGE, run))
"""
AGE_S = 8 * 86_400


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("seed: 1\npretrain: {dino: {}}\n")
    return tmp_path


def start(world: Path, out: str, *more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off", "LONGTAKE_CACHE": str(world / "cache")}
    command = [sys.executable, "stage.py", "--method", "dino", "--model", out, *more]
    return subprocess.Popen(command, cwd=world, env=env, stderr=subprocess.PIPE, text=True)


def work(world: Path) -> list[Path]:
    return sorted((world / "cache" / "pretrain" / "dino").glob("*/work"))


def wait_for(world: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 60
    while len(found := work(world)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def holding(world: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in the middle of its work."""
    (world / "hold").touch()
    running = start(world, "first")
    wait_for(world, 1)
    yield running
    running.kill()
    running.communicate()


def test_a_second_run_of_the_same_work_is_told_so(world: Path, holding: subprocess.Popen[str]) -> None:
    second = start(world, "second")
    _, error = second.communicate(timeout=60)
    assert second.returncode == ExitCode.BUSY
    assert "another run is at the same work" in error and "LONGTAKE_CACHE" in error and error.count("\n") == 1
    assert not (world / "second").exists() and work(world)
    (world / "hold").unlink()
    assert holding.wait(60) == 0
    assert start(world, "second").wait(60) == 0


def test_folders_beside_the_cache_are_claimed_too(world: Path, holding: subprocess.Popen[str]) -> None:
    """Other parameters that do not decide the result: another cache folder, but the same checkpoints."""
    second = start(world, "second", "--set", "lr=2")
    _, error = second.communicate(timeout=60)
    assert second.returncode == ExitCode.BUSY and "checkpoints-of-both" in error


def test_a_killed_run_leaves_its_work_to_the_next(world: Path, holding: subprocess.Popen[str]) -> None:
    holding.send_signal(signal.SIGKILL)
    holding.wait(60)
    (world / "hold").unlink()
    assert start(world, "second").wait(60) == 0


def test_what_others_left_goes_after_a_week_and_live_work_never(world: Path, holding: subprocess.Popen[str]) -> None:
    (live,) = work(world)
    folder = live.parent.parent
    for name, age_s in (("failed-an-hour-ago", 3600), ("given-up", AGE_S)):
        (folder / name).mkdir()
        (folder / name / "last.pt").touch()
        for path in (folder / name / "last.pt", folder / name):
            os.utime(path, (time.time() - age_s, time.time() - age_s))
    for path in (live, live.parent):  # looks left behind, but its process still holds it
        os.utime(path, (time.time() - AGE_S, time.time() - AGE_S))
    another = STAGE.replace("of-both", "of-another").replace('Path("hold").exists()', "False")
    (world / "stage.py").write_text(another)
    assert start(world, "second", "--set", "lr=2").wait(60) == 0
    assert {path.name for path in folder.iterdir()} == {live.parent.name, "failed-an-hour-ago", "checkpoints-of-both"}


def test_a_claim_is_of_paths_whatever_their_order_and_free_again(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    first, second = Claim([a, b], tmp_path), Claim([b, a], tmp_path)
    assert first.take() and not second.take()
    assert Claim([a], tmp_path).take()
    first.release()
    assert second.take()
