"""SIGKILL at random instants, then the same command again: the result is that of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.pipelines import tiny

pytestmark = pytest.mark.slow
SEED = 20240  # a failure can be repeated
KILLS_A_STAGE = 2
STAGES = {"download": 1.0, "extract_frames": 1.0, "index": 1.0, "pretrain": 7.0, "evaluate": 4.0}  # seconds they live
# longer than in the other tests, so that there is something to interrupt
LONGER = {"pretrain": {"dino": {"trainer": {"max_steps": 40}}}, "methods": ["dino"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tiny.tiny_workspace(tmp_path_factory.mktemp("undisturbed") / "world", **LONGER)
    assert tiny.repro(folder, "compare").returncode == 0
    return tiny.results(folder)


def running(dvc: psutil.Process, stages: list[str]) -> bool:
    """Whether a process of one of these stages lives below `dvc repro`."""
    try:
        lines = [" ".join(p.cmdline()) for p in dvc.children(recursive=True)]
    except psutil.Error:
        return False
    return any(f"components.{stage}" in line for line in lines for stage in stages)


def kill_once(folder, stage: str, chance: random.Random) -> bool:
    """Run `dvc repro` and kill everything at a random instant of `stage`; False if the run ended before.

    A stage that an earlier kill left finished does not run again: then a later one is met and killed in its place.
    """
    command = [sys.executable, "-m", "dvc", "repro", "compare"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=folder, env=tiny.environment(folder), start_new_session=True, **quiet)
    dvc, names = psutil.Process(run.pid), list(STAGES)
    wanted = names[names.index(stage) :]
    while run.poll() is None and not running(dvc, wanted):
        time.sleep(0.02)
    until = time.monotonic() + chance.uniform(0.0, STAGES[stage])
    while run.poll() is None and time.monotonic() < until and running(dvc, wanted):
        time.sleep(0.02)
    if run.poll() is not None:
        return False
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return True


def test_killed_anywhere_the_pipeline_ends_equal(undisturbed, tmp_path):
    chance = random.Random(SEED)
    folder = tiny.tiny_workspace(tmp_path / "world", **LONGER)
    killed = {stage: sum(kill_once(folder, stage, chance) for _ in range(KILLS_A_STAGE)) for stage in STAGES}
    print(f"kills: {killed}")
    assert sum(killed.values()) >= len(STAGES)
    done = tiny.repro(folder, "compare")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert tiny.results(folder) == undisturbed
    assert [p for p in folder.rglob("*.partial") if ".dvc" not in p.parts] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("size", ["100k", "400k"])
def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path, size):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (small / "filler").write_bytes(bytes((4 << 20) - int(size[:-1]) * 1024))
        (small / "params.yaml").write_text(
            "download: {clips: {source: procedural, layouts: [videos], clips: 40, clip_s: 4, workers: 1}}\n"
        )
        command = [sys.executable, "-m", "components.download", "--dataset", "clips", "--data", "data/clips"]
        env = {**tiny.environment(small), "PYTHONPATH": str(tiny.ROOT)}
        failed = subprocess.run(command, cwd=small, env=env, capture_output=True, text=True)
        assert failed.returncode == 4, failed.stderr
        assert "the disk is full" in failed.stderr or "No space left on device" in failed.stderr  # we, or ffmpeg
        assert "Traceback" not in failed.stderr
        assert not (small / "data" / "clips").exists()
        (small / "filler").unlink()
        assert (small / "params.yaml").read_text().startswith("download")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
