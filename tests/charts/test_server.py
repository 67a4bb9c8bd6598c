"""MLflow's server with exactly the arguments and the environment of the chart, on a real database and store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.charts.conftest import CHART, Render, containers, pods
from tests.charts.servers import free_port, postgresql, running
from tests.charts.test_scripts import script
from tests.charts.tools import Unavailable

pytestmark = pytest.mark.slow

PASSWORD = "p@ss/w:rd #1"  # would break every address it stood in
BINARIES = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    url: str
    environment: dict[str, str]
    log: Path


def environment_of(container: dict[str, Any], replaced: dict[str, str]) -> dict[str, str]:
    """A container's environment, with the addresses of this machine and the secrets' values."""
    given = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert set(replaced) <= set(given), "the chart no longer sets what this test replaces"
    return {**given, **replaced, "PATH": f"{BINARIES}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of PostgreSQL where there is one, else of an SQLite file."""
    try:
        with postgresql(PASSWORD) as port:
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    except Unavailable:
        yield f"sqlite:///{tmp_path_factory.mktemp('database')}/mlflow.db"


@pytest.fixture(scope="module")
def server(render: Render, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Migration job, bucket job and server, one after the other, as in the cluster."""
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    chart = pods(render({"mlflow": {"workers": 1, "allowedHosts": [f"127.0.0.1:{port}"]}}))
    addresses = {"MLFLOW_BACKEND_STORE_URI": database, "PGPASSWORD": PASSWORD, "HOME": str(folder)}
    host, store_port = store.get_host_and_port()
    objects = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{store_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    wait_first = environment_of(containers(chart["mlflow"])[0], addresses)
    empty = script("schema.py", "--timeout", "1", **wait_first)
    assert empty.returncode == 1 and "schema None" in empty.stderr, empty.stderr
    migrate(chart["migrate"], addresses)
    assert script("schema.py", "--timeout", "1", **wait_first).returncode == 0
    bucket = environment_of(containers(chart["bucket"])[0], {**objects, "HOME": str(folder)})
    # other tests of this process may have made a bucket of this name: moto's servers share their content
    assert script("bucket.py", **bucket).stdout in ("bucket longtake made\n", "bucket longtake is there\n")

    container = containers(chart["mlflow"])[1]
    places = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [*container["command"], *(places.get(argument, argument) for argument in container["args"])]
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    environment = environment_of(container, {**addresses, **objects})
    with running(command, log, lambda: _healthy(url), env=environment, cwd=folder):
        yield Server(url, {**objects, "LONGTAKE_BUCKET": "longtake", "AWS_DEFAULT_REGION": "us-east-1"}, log)
    store.stop()


def migrate(pod: dict[str, Any], addresses: dict[str, str]) -> None:
    """The job's command, its $(VARIABLE) filled in as the kubelet does."""
    environment = environment_of(containers(pod)[0], addresses)
    command = [
        w.replace("$(MLFLOW_BACKEND_STORE_URI)", addresses["MLFLOW_BACKEND_STORE_URI"])
        for w in pod["spec"]["containers"][0]["command"]
    ]
    assert PASSWORD not in " ".join(command)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def search(server: Server, **headers: str) -> int:
    body = {"max_results": 1}
    return requests.post(
        f"{server.url}/api/2.0/mlflow/experiments/search", json=body, headers=headers, timeout=20
    ).status_code


def test_only_its_own_names_are_answered(server: Server) -> None:
    assert search(server) == 200
    assert search(server, Host="longtake-mlflow.longtake.svc:5000") == 200
    assert search(server, Host="longtake-mlflow") == search(server, Host="localhost:5000") == 200
    assert search(server, Host="evil.example.org") == search(server, Host="10.1.2.3:5000") == 403
    # a kubelet's probe comes with the pod's address
    assert requests.get(f"{server.url}/health", headers={"Host": "10.1.2.3:5000"}, timeout=20).status_code == 200


def test_only_its_own_pages_may_call(server: Server) -> None:
    assert search(server, Origin="http://localhost:5000") == 200
    assert search(server, Origin="https://evil.example.org") == 403


def test_artifacts_go_through_the_server_into_the_store(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client has no keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    client = MlflowClient(tracking_uri=server.url)
    run = client.create_run(client.create_experiment("artifacts"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    content = os.urandom(100_000)
    (tmp_path / "encoder.safetensors").write_bytes(content)
    client.log_artifact(run.info.run_id, str(tmp_path / "encoder.safetensors"))
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=server.environment["MLFLOW_S3_ENDPOINT_URL"], **keys)
    (stored,) = s3.list_objects_v2(Bucket="longtake", Prefix="mlflow/")["Contents"]
    assert stored["Key"].endswith(f"{run.info.run_id}/artifacts/encoder.safetensors")
    assert s3.get_object(Bucket="longtake", Key=stored["Key"])["Body"].read() == content


def test_a_model_version_is_made_of_a_logged_model_alone(server: Server) -> None:
    client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
    client.create_registered_model("longtake-encoder")
    model = client.create_logged_model(client.create_experiment("models"), name="encoder")
    version = client.create_model_version("longtake-encoder", f"models:/{model.model_id}", model_id=model.model_id)
    assert int(version.version) == 1
    for source in ("s3://elsewhere/model", "https://evil.example.org/model", "file:///etc", "/etc"):
        with pytest.raises(MlflowException, match=r"[Ii]nvalid"):
            client.create_model_version("longtake-encoder", source)


def test_the_check_of_helm_test_passes(server: Server) -> None:
    process = script("check.py", "--mlflow", server.url, **server.environment)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "MLflow: the server and its database answer",
        "S3: an object in s3://longtake was written, read and removed",
    ]


def test_the_log_holds_no_secret(server: Server) -> None:
    assert PASSWORD not in server.log.read_text()


def test_scripts_are_what_the_chart_mounts(render: Render) -> None:
    mounted = next(o["data"] for o in render({}) if o["metadata"]["name"] == "longtake-scripts")
    assert mounted == {file.name: file.read_text() for file in (CHART / "files").glob("*.py")}
