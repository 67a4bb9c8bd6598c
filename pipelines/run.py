"""The compiled pipeline on this machine, each task in its container: `python -m pipelines.run --local`.

The same file, images and commands as on a cluster, without one. MLflow runs beside it for as long as it lasts. Results
stand in the workspace afterwards as `dvc repro` would have left them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.errors import ExitCode, StageError
from components.common.outputs import write_text
from components.common.stage import parse_change
from pipelines import failures
from pipelines.cluster import Cluster, Retry
from pipelines.compile import Plan, compile_plan, plan
from pipelines.engine import LABEL, check_images, stop_containers
from pipelines.repro import summary
from pipelines.server import mlflow
from pipelines.wiring import task_name
from pipelines.workspace import ROOT, make_workspace, merged_params, recipe_file

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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder = _workspace(args)
        made = plan(folder, _here(args.cluster))
        for line in check_images(made.cluster.images, made.revision):
            print(f"run: warning: {line}, here it is {made.revision} (make images)", file=sys.stderr)
        with only_one(folder), contextlib.nullcontext(args.mlflow) if args.mlflow else mlflow(folder) as uri:
            install(made, run(made, folder, uri), folder)
    except StageError as error:
        print(f"run: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print("run: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    look = args.mlflow or f"mlflow server --backend-store-uri sqlite:///{folder}/mlflow.db --port 5000"
    print(summary(folder, time.monotonic() - started, look))
    return int(failures.tell(failures.failed(folder), failures.ON_KUBEFLOW))


def _workspace(args: argparse.Namespace) -> Path:
    file = recipe_file(args.recipe) if args.recipe else None
    params = merged_params(file, [parse_change(text) for text in args.set])
    name = f"docker-{file.stem if file else 'sample'}"
    return make_workspace((args.workspace or ROOT / "runs" / name).absolute(), params)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two runs never share a workspace; raises StageError."""
    with (folder / ".run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(
                "another run uses this workspace", where=folder, do="wait, or name a --workspace"
            ) from None
        yield


def _here(file: Path | None) -> Cluster:
    """This machine as a cluster: no devices, no secrets, no volumes, and a failure is shown at once."""
    none = {"config_map": None, "secret": None, "cache_pvc": None, "gpus": False}
    return Cluster.read(file).model_copy(update={**none, "retry": Retry(attempts=0)})


def run(made: Plan, folder: Path, uri: str) -> dict[tuple[str, str], Path]:
    """Run the pipeline to its end; returns (node, flag) -> artifact.

    Equal executions of an equal pipeline are taken from Kubeflow's local cache, so that a run that failed goes on.

    Raises:
        StageError: a task has failed; what was finished is kept.
    """
    from kfp import components, local

    text = compile_plan(made)
    write_text(folder / "pipeline.yaml", text)
    # a commit that touches no stage leaves what was finished: the revision of the whole is for the exit task alone
    root = folder / ".kfp" / hashing.json_hash(text.replace(made.revision, ""))
    (root / "cache").mkdir(parents=True, exist_ok=True)
    local.init(_runner(root, uri, folder.name), str(root), enable_caching=True, cache_root=str(root / ".kfp_cache"))
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")  # known: see above
    stop_containers(root)  # of a run that was killed
    try:
        components.load_component_from_text(text)()
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise StageError(f"the pipeline has failed, {why}", where=root, do="see above; run it again to go on") from None
    finally:
        stop_containers(root)
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
    places: dict[str, Any] = {
        "labels": {LABEL: str(root)},
        "read_only": True,
        "tmpfs": {"/tmp": "exec"},  # noqa: S108
        "shm_size": SHM,
    }
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
