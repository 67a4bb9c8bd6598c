"""The servers behind the chart, on free ports of this machine: PostgreSQL, an S3 store, a Kubernetes API."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.charts.tools import Unavailable, tool

PATIENCE_S = 120
TOKEN = "loopback-only"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait(ready: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> None:
    """Until `ready`; raises AssertionError with the end of the log where the process ends first."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)


@contextlib.contextmanager
def running(command: list[Any], log: Path, ready: Callable[[], bool], **options: Any) -> Iterator[None]:
    """A process that is there until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        wait(ready, process, log)
        yield
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[int]:
    """A database `mlflow` of the user `mlflow`, as the image's entry point makes it; gives the port.

    Raises:
        Unavailable: no PostgreSQL or no driver here.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    binaries = versions[-1] if versions else Path(shutil.which("initdb") or "").parent
    if not (binaries / "initdb").exists() or importlib.util.find_spec("psycopg2") is None:
        raise Unavailable("PostgreSQL or psycopg2 is not installed")
    environment = {"PATH": os.environ["PATH"]}
    options: dict[str, Any] = {"env": environment, "cwd": "/"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if os.getuid() == 0:  # PostgreSQL refuses root
            options["user"] = "postgres"
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        made = ["--auth-host=scram-sha-256", "--data-checksums", "--username=mlflow", f"--pwfile={folder / 'password'}"]
        subprocess.run(
            [str(binaries / "initdb"), "-D", str(folder / "data"), *made], check=True, capture_output=True, **options
        )
        port = free_port()
        server = [binaries / "postgres", "-D", folder / "data", "-p", port, "-k", folder]
        server += ["-c", "listen_addresses=127.0.0.1"]
        create = [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        with running(server, folder / "log", lambda: listens(port), **options):
            subprocess.run(create, check=True, env={**environment, "PGPASSWORD": password})
            yield port


@dataclass(frozen=True)
class ControlPlane:
    """A Kubernetes API server: it checks, admits and keeps objects; no kubelet runs them."""

    url: str
    tls: ssl.SSLContext

    @property
    def flags(self) -> list[str]:
        """For helm."""
        return ["--kube-apiserver", self.url, "--kube-token", TOKEN, "--kube-insecure-skip-tls-verify"]

    def ask(
        self, path: str, body: dict[str, Any] | None = None, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """GET, POST of a body, or another method: status and answer."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """kube-apiserver on etcd, with RBAC and the pod security standards.

    Raises:
        Unavailable: they are not built; a build takes some ten minutes, so it is never done on the way.
    """
    apiserver, etcd = (tool(name, build=False) for name in ("kube-apiserver", "etcd"))
    client, peer, port = free_port(), free_port(), free_port()
    etcd_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    keys = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(keys), "2048"], check=True, capture_output=True)
    tokens = folder / "tokens.csv"
    tokens.write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    database = [etcd, "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--initial-cluster", f"default={peer_url}"]
    database += ["--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url]
    database += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
    server = [apiserver, "--etcd-servers", etcd_url, "--cert-dir", folder / "certs", "--secure-port", port]
    server += ["--bind-address", "127.0.0.1", "--service-cluster-ip-range", "10.0.0.0/24", "--token-auth-file", tokens]
    server += ["--service-account-issuer", "https://kubernetes.default.svc", "--authorization-mode", "RBAC"]
    server += ["--service-account-key-file", keys, "--service-account-signing-key-file", keys]
    # nobody makes accounts and tokens here, so a pod's account is not looked up
    server += ["--disable-admission-plugins", "ServiceAccount"]
    tls = ssl._create_unverified_context()  # its certificate is made on the spot
    plane = ControlPlane(f"https://127.0.0.1:{port}", tls)

    def ready() -> bool:
        try:
            request = urllib.request.Request(f"{plane.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
            return bool(urllib.request.urlopen(request, context=tls, timeout=5).status == 200)
        except OSError:
            return False

    with (
        running(database, folder / "etcd.log", lambda: listens(client)),
        running(server, folder / "apiserver.log", ready),
    ):
        yield plane
