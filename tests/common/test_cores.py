import os
import subprocess
from pathlib import Path

import pytest

from components.common.cores import usable_cores

HERE = len(os.sched_getaffinity(0))


def groups(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, HERE),  # more than there are
        ({"cpu.max": "max 100000\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
        ({"cpu.max": "damaged"}, HERE),
        ({}, HERE),
    ],
)
def test_a_limit_of_the_container_counts(tmp_path, files, cores):
    assert usable_cores(groups(tmp_path, files)) == cores


def test_parts_of_a_core_are_rounded_up(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert usable_cores(groups(tmp_path, {"cpu.max": "350000 100000\n"})) == 4


@pytest.mark.docker
@pytest.mark.slow
def test_in_a_real_container(docker_images):
    image = docker_images["data"]
    code = "import sys; sys.path.insert(0, '/code'); from components.common.cores import usable_cores as u; print(u())"
    root = Path(__file__).resolve().parents[2]
    for cpus in ("1", str(HERE)):
        command = ["docker", "run", "--rm", "--cpus", cpus, "-v", f"{root}/components:/code/components:ro", image]
        done = subprocess.run([*command, "python", "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == cpus, done.stderr
