"""What tests of several parts share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGES_TIMEOUT_S = 2400  # both images from nothing: four minutes on two idle cores, more beside other tests
MARK = "longtake-test-secret"  # goes into the builds' secrets; no layer may hold it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first builds the images: give each the time for it."""
    for item in items:
        if "docker_images" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(IMAGES_TIMEOUT_S))


@pytest.fixture(scope="session")
def docker_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{"data": name, "train": name}, built from this working tree once a test run; skips where no engine answers."""
    names = {image: f"longtake/{image}:test" for image in ("data", "train")}
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by the workers of this run
    built = folder / "images.built"
    with (folder / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            outcome = _build(folder)
            built.write_text(outcome)
    reason = built.read_text()
    if reason.startswith("images:"):
        pytest.skip(reason)
    assert not reason, reason
    return names


def _build(folder: Path) -> str:
    """Nothing where the images were built; else what was in the way, or the end of the build's output."""
    secret = folder / "ca.pem"
    given = os.environ.get("SSL_CERT_FILE")
    secret.write_text((Path(given).read_text() if given else "") + f"\n# {MARK}\n")
    local = os.getuid() == 0 and shutil.which("debootstrap")
    command = [sys.executable, "containers/build.py", "--tag=test", *(["--base=local"] if local else [])]
    environment = {**os.environ, **({"SSL_CERT_FILE": str(secret)} if given else {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 2:
        return done.stderr.strip().splitlines()[-1]
    return (done.stderr[-4000:] or "the build failed") if done.returncode else ""
