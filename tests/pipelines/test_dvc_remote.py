"""Results travel through a DVC remote on S3: what one workspace has made, another restores instead of running."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.hashing import tree_hash
from tests.common.s3.servers import KEYS, moto
from tests.pipelines import tiny

pytestmark = pytest.mark.slow
STAGES = ["download@sample", "extract_frames@sample"]
OUTS = ["data/raw/sample", "data/frames/sample"]


@pytest.fixture(scope="module")
def endpoint():
    import requests

    with moto() as running:
        requests.put(f"{running}/longtake", timeout=10).raise_for_status()
        yield running


def dvc(folder: Path, *arguments: str, ok: bool = True) -> str:
    """Run dvc and return all it said."""
    command = [sys.executable, "-m", "dvc", *arguments]
    env = tiny.environment(folder, **KEYS, DVC_GLOBAL_CONFIG_DIR=str(folder.parent / "user"))
    done = subprocess.run(command, cwd=folder, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode == 0) is ok, done.stdout
    return done.stdout


def workspace(folder: Path, endpoint: str) -> Path:
    """A workspace, and the user's remote as docs/s3.md sets it."""
    made = tiny.tiny_workspace(folder, methods=["dino"], tasks=["knn"])
    dvc(made, "remote", "add", "--global", "--default", "store", "s3://longtake/dvc")
    dvc(made, "remote", "modify", "--global", "store", "endpointurl", endpoint)
    return made


@pytest.fixture(scope="module")
def spaces(tmp_path_factory, endpoint):
    """One workspace that has run two stages and pushed them, and two new ones of the same code and parameters."""
    folder = tmp_path_factory.mktemp("remote")
    first = workspace(folder / "first", endpoint)
    second, third = (shutil.copytree(first, folder / name) for name in ("second", "third"))
    said = dvc(first, "repro", *STAGES)
    assert [f"Running stage '{stage}'" in said for stage in STAGES] == [True, True]
    assert "pushed" in dvc(first, "push", "--run-cache")
    return first, second, third


def hashes(folder: Path) -> list[str]:
    return [tree_hash(folder / out) for out in OUTS]


def test_a_lock_and_a_pull_bring_the_results(spaces, endpoint):
    first, second, _ = spaces
    (second / "dvc.lock").write_bytes((first / "dvc.lock").read_bytes())
    dvc(second, "pull", *STAGES)
    assert hashes(second) == hashes(first)
    assert "up to date" in dvc(second, "repro", *STAGES)


def test_without_a_lock_the_run_cache_says_what_need_not_run(spaces, endpoint):
    first, _, third = spaces
    said = dvc(third, "repro", "--pull", *STAGES)
    assert [f"Stage '{stage}' is cached - skipping run" in said for stage in STAGES] == [True, True]
    assert "Running stage" not in said
    assert not (third / ".cache" / "tracking").exists()  # no stage has even started
    assert hashes(third) == hashes(first)


def test_other_parameters_do_run(spaces, endpoint):
    _, second, _ = spaces
    params = second / "params.yaml"
    params.write_text(params.read_text().replace("short_side_px: 48", "short_side_px: 32"))
    said = dvc(second, "repro", "--dry", *STAGES)
    assert "Running stage 'extract_frames@sample'" in said
    assert "Running stage 'download@sample'" not in said


def test_a_store_that_is_away_or_refuses_loses_nothing(spaces, endpoint):
    first, _, _ = spaces
    before = hashes(first)
    dvc(first, "remote", "modify", "--global", "store", "endpointurl", "http://127.0.0.1:9")
    assert "ERROR" in dvc(first, "push", ok=False)
    assert hashes(first) == before
    dvc(first, "remote", "modify", "--global", "store", "endpointurl", endpoint)
    assert "up to date" in dvc(first, "push")
