"""MLflow's server beside a local run, for as long as the run lasts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from components.common.errors import StageError
from components.common.outputs import write_text
from components.common.tracking import store

SERVER_WAIT_S = 90.0  # a fresh database goes through dozens of migrations first
POLL_S = 0.5
STOP_S = 10.0


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """The address of a server whose database and artifacts lie in `folder`; it ends with the block.

    One that a killed run has left behind is ended first: two servers on one SQLite file lock each other out.
    """
    mine = folder / "mlflow.pid"
    _end_left_over(mine)
    port = _free_port()
    server = _start(folder, port)
    write_text(mine, f"{server.pid} {psutil.Process(server.pid).create_time()}")
    try:
        _await(f"http://127.0.0.1:{port}", server, folder / "mlflow.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(server.pid)
        server.wait()
        mine.unlink(missing_ok=True)


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    database, artifacts = f"sqlite:///{folder}/mlflow.db", f"{folder}/mlartifacts"
    places = ["--backend-store-uri", database, "--artifacts-destination", artifacts]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *places, *address]
    env = {**os.environ, **store.ENVIRONMENT}
    with (folder / "mlflow.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)


def _await(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=POLL_S):  # noqa: S310
            return
        time.sleep(POLL_S)
    raise StageError("MLflow's server does not start", where=log, do="read the log, or name a server with --mlflow")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_left_over(file: Path) -> None:
    """End the server named in `file`, if it is still the same process."""
    try:
        pid, started = file.read_text(encoding="utf-8").split()
        if psutil.Process(int(pid)).create_time() == float(started):
            _end(int(pid))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return


def _end(pid: int) -> None:
    """The server and the processes it has started; they share its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(pid).wait(STOP_S)
