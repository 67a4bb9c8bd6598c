"""Real S3-speaking servers on loopback: moto's, and Versity's gateway where it is installed or Go can build it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "longtake", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_DEFAULT_REGION": "us-east-1"}
GATEWAY = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
TOOLS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "longtake-tools"
BUCKET = "films"


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """moto's server in a thread; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """Versity's gateway over `folder`: it checks signatures, digests and conditions. Yields its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "root").mkdir(parents=True)
    (folder / "meta").mkdir()
    given = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    command = [gateway_program(), "--quiet", "--port", f"127.0.0.1:{port}"]
    command += ["posix", "--sidecar", str(folder / "meta"), str(folder / "root")]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)
    try:
        _wait_for(port, running, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(10)


def gateway_program() -> str:
    """The gateway's program; skips the test where there is none and none can be built."""
    found = shutil.which("versitygw", path=os.pathsep.join([str(TOOLS), os.environ.get("PATH", "")]))
    if found:
        return found
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"]))
    if go is None:
        pytest.skip("no versitygw and no Go to build it with")
    TOOLS.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [go, "install", GATEWAY], env={**os.environ, "GOBIN": str(TOOLS)}, capture_output=True, text=True, timeout=800
    )
    if built.returncode:
        pytest.skip(f"versitygw cannot be built here: {built.stderr.strip().splitlines()[-1][:200]}")
    return str(TOOLS / "versitygw")


def _wait_for(port: int, running: subprocess.Popen, log: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert running.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError("the gateway does not listen")
