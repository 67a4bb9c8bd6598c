"""The build command and what it reads, where no engine is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

ROOT = Path(__file__).resolve().parents[2]


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "containers/build.py", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def command_line(folder: Path, version: str) -> str:
    """A docker command of some version that has an engine and no buildx plugin."""
    script = folder / "docker"
    script.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo "{version} 20.10.24"\n')
    script.chmod(0o755)
    return str(script)


def test_without_an_engine_it_says_what_to_do():
    done = build(DOCKER_HOST="tcp://127.0.0.1:1")
    assert done.returncode == 2 and done.stdout == ""
    assert "no Docker engine answers" in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_a_docker_command_it_says_what_to_do(tmp_path):
    done = build(DOCKER=str(tmp_path / "docker"))
    assert done.returncode == 2 and "no Docker engine answers" in done.stderr


def test_a_command_line_that_cannot_build_is_told_from_one_that_can(tmp_path):
    done = build(DOCKER=command_line(tmp_path, "28.2.2"))
    assert done.returncode == 2 and "buildx" in done.stderr
    done = build("--base=nowhere/base:1", DOCKER=command_line(tmp_path, "20.10.24+dfsg1"))
    assert done.returncode == 2 and "BASE=local" in done.stderr  # it got as far as the base image


def test_labels_are_those_of_the_commit():
    code = "from containers.build import labels; print(labels()['CREATED'], labels()['VERSION'])"

    def shown(epoch: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)

    assert shown("86399").stdout.split() == ["1970-01-01T23:59:59Z", "0.1.0"]
    assert "seconds since 1970" in shown("yesterday").stderr


def test_the_dockerfile_is_clean():
    linter = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("no hadolint here")
    done = subprocess.run([linter, ROOT / "containers/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_but_code_and_locks_goes_to_the_engine(tmp_path):
    wanted = ["LICENSE", "pyproject.toml", "components/index/build.py", "components/compare/page.html.j2"]
    wanted += ["pipelines/compile.py", "pipelines/cluster.yaml", "containers/data.lock"]
    unwanted = ["data/raw/a.mp4", ".git/config", ".venv/bin/python", ".dvc/config.local", "models/dino/x", "mlflow.db"]
    unwanted += [".env", "components/.env", "components/index/__pycache__/build.pyc", "id_rsa", "tests/test_x.py"]
    unwanted += ["pipelines/.aws/credentials", "containers/build.py", "runs/own/data/x", "components/.cache/x"]
    for name in [*wanted, *unwanted]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = {path for path in exclude_paths(str(tmp_path), patterns) if (tmp_path / path).is_file()}
    assert sent - {"Dockerfile", ".dockerignore"} == set(wanted)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to start as root")
def test_the_base_script_wants_root():
    done = subprocess.run(
        ["/bin/bash", "-s", "x:y"], stdin=(ROOT / "containers/base.sh").open(), user=65534, capture_output=True
    )
    assert done.returncode == 2 and b"needs root" in done.stderr
