"""The scripts that the chart's jobs run, as processes with the environment that the chart gives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
from mlflow.store.db.utils import _get_latest_schema_revision
from sqlalchemy import create_engine, text

from tests.charts.conftest import CHART

Process = subprocess.CompletedProcess[str]


def script(name: str, *arguments: str, **environment: str) -> Process:
    """Run files/NAME with nothing of this machine's environment but the path."""
    command = [sys.executable, str(CHART / "files" / name), *arguments]
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment of a pod with an S3 store."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "LONGTAKE_BUCKET": "longtake",
    }
    server.stop()


def buckets(store: dict[str, str]) -> list[str]:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "eu-west-1"}
    client = boto3.client("s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"], **keys)
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_a_bucket_is_made_once(store: dict[str, str]) -> None:
    environment = {**store, "LONGTAKE_BUCKET": "fresh"}
    first, second = script("bucket.py", **environment), script("bucket.py", **environment)
    assert (first.returncode, first.stdout) == (0, "bucket fresh made\n"), first.stderr
    assert (second.returncode, second.stdout) == (0, "bucket fresh is there\n"), second.stderr
    assert "fresh" in buckets(store)


class Answering(BaseHTTPRequestHandler):
    """A server with one answer to everything; with `then`, that one after the first two requests."""

    status, then, asked = 403, 403, 0

    def do_HEAD(self) -> None:
        type(self).asked += 1
        self.send_response(self.status if self.asked <= 2 else self.then)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    handler = type("Handler", (Answering,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_wrong_keys_end_the_job_at_once(store: dict[str, str], answering: HTTPServer) -> None:
    address = f"http://127.0.0.1:{answering.server_port}"
    process = script("bucket.py", **{**store, "MLFLOW_S3_ENDPOINT_URL": address})
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.startswith("bucket longtake:") and "403" in process.stderr and "secret" not in process.stderr


def test_a_store_that_is_still_starting_is_waited_for(store: dict[str, str], answering: HTTPServer) -> None:
    handler = answering.RequestHandlerClass
    handler.status, handler.then = 503, 200  # type: ignore[attr-defined]
    process = script("bucket.py", **{**store, "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{answering.server_port}"})
    assert process.returncode == 0 and process.stdout.startswith("waiting:"), process.stderr
    assert process.stdout.endswith("bucket longtake is there\n")


def test_a_check_says_who_does_not_answer(store: dict[str, str], answering: HTTPServer) -> None:
    nobody = script("check.py", "--mlflow", "http://127.0.0.1:9", **store)
    assert nobody.returncode == 1 and nobody.stderr.startswith("MLflow at http://127.0.0.1:9:")
    address = f"http://127.0.0.1:{answering.server_port}"
    refused = script("check.py", "--mlflow", address, **store)
    assert refused.returncode == 1 and "403" in refused.stderr and "Traceback" not in refused.stderr
    answering.RequestHandlerClass.status = answering.RequestHandlerClass.then = 200  # type: ignore[attr-defined]
    no_store = script("check.py", "--mlflow", address, **{**store, "LONGTAKE_BUCKET": "nowhere"})
    assert no_store.returncode == 1 and no_store.stderr.startswith("S3:") and "NoSuchBucket" in no_store.stderr


def schema(file: Path, revision: str | None) -> Process:
    """Ask about a database with this revision."""
    url = f"sqlite:///{file}"
    if revision:
        with create_engine(url).begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
    return script("schema.py", "--timeout", "1", MLFLOW_BACKEND_STORE_URI=url)


def test_servers_wait_for_the_schema_that_mlflow_itself_wants(tmp_path: Path) -> None:
    head = _get_latest_schema_revision()
    there = schema(tmp_path / "there.db", head)
    assert (there.returncode, there.stdout) == (0, f"schema {head}\n"), there.stderr
    for name, revision in (("empty.db", None), ("old.db", "451aebb31d03")):
        process = schema(tmp_path / name, revision)
        assert process.returncode == 1 and f"has schema {revision}, this MLflow needs {head}" in process.stderr


def test_an_unreachable_database_is_one_line(tmp_path: Path) -> None:
    process = schema(tmp_path / "no" / "such" / "folder.db", None)
    assert process.returncode == 1 and process.stderr.startswith("gave up: unable to open database file")
    assert "Traceback" not in process.stderr


def test_a_cache_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    process = script("cache.py", str(tmp_path))
    assert (process.returncode, process.stdout) == (0, f"{tmp_path} can be written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_says_whose_it_is() -> None:
    process = script("cache.py", "/proc")  # where not even root makes a file
    assert process.returncode == 1 and "the volume belongs to 0:0 with mode 555" in process.stderr
    assert "Traceback" not in process.stderr
