"""The compiled pipeline on this machine, each task in its container: `python -m pipelines.run --local`.

The same file, images and commands as on a cluster, without one. MLflow runs beside it for as long as it lasts. Results
stand in the workspace afterwards as `dvc repro` would have left them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.errors import ExitCode, StageError
from components.common.outputs import write_text
from components.common.stage import parse_change
from components.common.tracking import store
from pipelines.cluster import Cluster, Retry
from pipelines.compile import Plan, compile_plan, plan
from pipelines.repro import summary
from pipelines.wiring import task_name
from pipelines.workspace import ROOT, make_workspace, merged_params, recipe_file

SERVER_WAIT_S = 90.0  # a fresh database goes through dozens of migrations first
POLL_S = 0.5
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # they decide in which order sums are taken
SHM = "2g"  # loader workers hand batches over in /dev/shm; Docker's default of 64 MB is too small for images


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.run", description=__doc__)
    parser.add_argument(
        "--local", action="store_true", required=True, help="in Docker here (a cluster: pipelines.submit)"
    )
    parser.add_argument("--recipe", help="a file of recipes/ (by name) or any other")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
    parser.add_argument("--cluster", type=Path, help="settings, of which the images count here")
    parser.add_argument("--workspace", type=Path, help="where results go (default: runs/docker-<recipe>)")
    parser.add_argument("--mlflow", metavar="URI", help="a server to use instead of starting one")
    args = parser.parse_args(argv)
    started = time.monotonic()
    try:
        folder = _workspace(args)
        images = Cluster.read(args.cluster).images
        check_docker(images)
        made = plan(folder, _here(args.cluster))
        with mlflow(args.mlflow, folder) as uri:
            produced = run(made, folder, uri)
        install(made, produced, folder)
    except StageError as error:
        print(f"run: {error}", file=sys.stderr)
        return int(error.code)
    look = args.mlflow or f"mlflow server --backend-store-uri sqlite:///{folder}/mlflow.db --port 5000"
    print(summary(folder, time.monotonic() - started, look))
    return int(ExitCode.OK)


def _workspace(args: argparse.Namespace) -> Path:
    file = recipe_file(args.recipe) if args.recipe else None
    params = merged_params(file, [parse_change(text) for text in args.set])
    name = f"docker-{file.stem if file else 'sample'}"
    return make_workspace((args.workspace or ROOT / "runs" / name).absolute(), params)


def _here(file: Path | None) -> Cluster:
    """This machine as a cluster: no devices, no secrets, no volumes, and a failure is shown at once."""
    none = {"config_map": None, "secret": None, "cache_pvc": None, "gpus": False}
    return Cluster.read(file).model_copy(update={**none, "retry": Retry(attempts=0)})


def check_docker(images: dict[str, str]) -> None:
    """Raises StageError when no engine answers or an image is missing."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        with contextlib.closing(docker.from_env()) as engine:
            for image in images.values():
                engine.images.get(image)
    except ImageNotFound as error:
        raise StageError("an image is missing", where=str(error.explanation), do="make images") from None
    except DockerException as error:
        why = " ".join(str(error).split())[:200]
        raise StageError(f"no Docker engine answers: {why}", do="start Docker, or use make repro") from None


@contextlib.contextmanager
def mlflow(given: str | None, folder: Path) -> Iterator[str]:
    """The address of an MLflow server: the given one, or one of the workspace's own for as long as the block lasts."""
    if given:
        yield given
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/mlartifacts",
    ]
    command = [sys.executable, "-m", "mlflow", "server", *places, "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, **store.ENVIRONMENT}
    with (folder / "mlflow.log").open("ab") as log:
        server = subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        _await_server(f"http://127.0.0.1:{port}", server, folder / "mlflow.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _await_server(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=POLL_S):  # noqa: S310
            return
        time.sleep(POLL_S)
    raise StageError("MLflow's server does not start", where=log, do="read the log, or name a server with --mlflow")


def run(made: Plan, folder: Path, uri: str) -> dict[tuple[str, str], Path]:
    """Run the pipeline to its end; returns (node, flag) -> artifact.

    Equal executions of an equal pipeline are taken from Kubeflow's local cache, so that a run that failed goes on.

    Raises:
        StageError: a task has failed; what was finished is kept.
    """
    from kfp import components, local

    text = compile_plan(made)
    write_text(folder / "pipeline.yaml", text)
    root = folder / ".kfp" / hashing.json_hash(text)
    (root / "cache").mkdir(parents=True, exist_ok=True)
    local.init(_runner(root, uri, folder.name), str(root), enable_caching=True, cache_root=str(root / ".kfp_cache"))
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")  # known: see above
    try:
        components.load_component_from_text(text)()
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise StageError(f"the pipeline has failed, {why}", where=root, do="see above; run it again to go on") from None
    artifacts = [(node.name, output.flag) for node in made.dag.nodes for output in made.wiring[node.name].outputs]
    return {(name, flag): _newest(root, name, flag) for name, flag in artifacts}


def _runner(root: Path, uri: str, name: str) -> Any:
    """Containers run as this user, so that results belong to them; only `root` and /tmp can be written to.

    The environment is the runner's and not the pipeline's: else each run's own address would defeat the cache.
    """
    from kfp import local

    env = {
        "MLFLOW_TRACKING_URI": uri,
        "LONGTAKE_CACHE": str(root / "cache"),
        "LONGTAKE_PIPELINE_RUN": f"{name}-{root.name[:8]}",
    }
    env |= {name: os.environ[name] for name in THREADS if name in os.environ}
    user = f"{os.getuid()}:{os.getgid()}"
    places = {"read_only": True, "tmpfs": {"/tmp": "exec"}, "shm_size": SHM}  # noqa: S108
    return local.DockerRunner(user=user, environment=env, network_mode="host", **places)


def _newest(root: Path, node: str, flag: str) -> Path:
    """The artifact's place: in the job that made it last."""
    found = sorted(root.glob(f"*/{task_name(node)}/{flag}"), key=lambda path: path.stat().st_mtime_ns)
    found += sorted(root.glob(f"*/{task_name(node)}-merge/{flag}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise StageError(f"no output '{flag}' of '{node}'", where=root)
    return found[-1]


def install(made: Plan, produced: dict[tuple[str, str], Path], folder: Path) -> None:
    """Put the outputs where `dvc repro` would have put them; links, where the file system has them."""
    for node in made.dag.nodes:
        for output in made.wiring[node.name].outputs:
            if output.path:
                _install(produced[node.name, output.flag], folder / output.path)


def _install(artifact: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = outputs.stage_path(place)
    outputs.remove(partial)
    if artifact.is_dir():
        outputs.check_new_output(place)
        shutil.copytree(artifact, partial, copy_function=_link)
    else:
        _link(str(artifact), str(partial))
    outputs.put_in_place(partial, place)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    raise SystemExit(main())
