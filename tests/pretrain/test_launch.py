"""Training in several processes as a cluster starts it: torchrun on one node, a TrainJob's nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from components.common import outputs
from components.common.encoder import load_encoder
from components.common.errors import ExitCode
from components.common.s3.params import S3Params
from components.common.s3.store import Store
from components.common.s3.upload import upload_folder
from tests.common.kube_api import KubeApi, Kubelet
from tests.common.s3.servers import KEYS, moto

ROOT = Path(__file__).parents[2]
SECTION: dict[str, Any] = {
    "encoder": {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3},
    },
    "trainer": {
        "batch_size": 8, "max_steps": 60, "epochs": 1000, "warmup_epochs": 0, "workers": 0, "log_every_steps": 5,
        "checkpoint_every_s": 0,
    },
    "args": {
        "out_dim": 16, "hidden_dim": 16, "global_size_px": 32, "local_size_px": 16, "local_crops": 2, "drop_path": 0,
    },
}  # fmt: skip
LAUNCH = [sys.executable, "-m", "components.common.launch"]
PROCESSES = ["--processes", "2", "--"]


class World:
    """A working folder with parameters and a corpus."""

    def __init__(self, folder: Path, corpus: tuple[Path, Path]) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.frames, self.index = map(str, corpus)
        (folder / "params.yaml").write_text(yaml.safe_dump({"seed": 0, "pretrain": {"dino": SECTION}}))

    def stage(self, model: str, *changes: str) -> list[str]:
        sets = [word for change in changes for word in ("--set", change)]
        inputs = ["--frames", self.frames, "--index", self.index, "--model", str(self.folder / model)]
        params = ["--params", str(self.folder / "params.yaml")]
        return ["python", "-m", "components.pretrain", "--method", "dino", *inputs, *params, *sets]

    def start(self, command: list[str], **env: str) -> subprocess.Popen[str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("LONGTAKE", "AWS", "MLFLOW"))}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
        own |= {"LONGTAKE_TRACKING": "off", "LONGTAKE_CACHE": str(self.cache)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env={**plain, **own, **env}, cwd=self.folder, **pipes)

    def run(self, command: list[str], **env: str) -> str:
        done = self.start(command, **env)
        said, _ = done.communicate(timeout=300)
        assert done.returncode == 0, said
        return said

    def wait_for_checkpoint(self, running: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while not list(self.cache.glob("pretrain/*/*/last.pt")):
            assert time.monotonic() < deadline and running.poll() is None, running.communicate()[0]
            time.sleep(0.05)

    def contents(self, model: str) -> dict[str, bytes]:
        folder = self.folder / model
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def world(tmp_path: Path, corpus: tuple[Path, Path]) -> World:
    return World(tmp_path, corpus)


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(world: World) -> None:
    world.run([sys.executable, *world.stage("one/model", "trainer.max_steps=10")[1:]])
    said = world.run([*LAUNCH, *PROCESSES, *world.stage("two/model", "trainer.max_steps=10")])
    assert said.count("done:") == 1, "only one process writes and speaks"
    one, two = (load_encoder(world.folder / name / "model").model.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert world.contents("one/model").keys() == world.contents("two/model").keys()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_ends_all_and_the_next_try_goes_on(rank: int, world: World) -> None:
    running = world.start([*LAUNCH, *PROCESSES, *world.stage("model", "trainer.max_steps=100000")])
    world.wait_for_checkpoint(running)
    processes = psutil.Process(running.pid).children()
    victim = next(p for p in processes if p.environ().get("RANK") == str(rank))
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    said, _ = running.communicate(timeout=60)
    assert running.returncode == ExitCode.LOST and time.monotonic() - began < 30
    assert f"launch: process {rank} was ended by SIGKILL" in said and "Traceback" not in said
    assert not psutil.wait_procs(processes, timeout=10)[1] and not (world.folder / "model").exists()
    resumed = world.start([*LAUNCH, *PROCESSES, *world.stage("model", "trainer.max_steps=100000")])
    assert resumed.stdout is not None
    assert "going on from the checkpoint of step" in next(line for line in resumed.stdout if "[pretrain@dino]" in line)
    resumed.send_signal(signal.SIGTERM)
    said, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == ExitCode.INTERRUPTED and "Traceback" not in said


@pytest.mark.slow
def test_processes_end_with_their_launcher(world: World) -> None:
    running = world.start([*LAUNCH, *PROCESSES, *world.stage("model", "trainer.max_steps=100000")])
    world.wait_for_checkpoint(running)
    processes = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert len(processes) >= 2 and not psutil.wait_procs(processes, timeout=30)[1]


@pytest.mark.slow
def test_what_all_processes_refuse_is_one_line(world: World) -> None:
    running = world.start([*LAUNCH, "--processes", "3", "--", *world.stage("model")])
    said, _ = running.communicate(timeout=120)
    assert running.returncode == ExitCode.BAD_INPUT
    assert said.startswith("pretrain: a batch of 8 cannot be shared by 3 processes") and said.count("\n") == 1


ALONE = """
import os, sys, time
from components.common.errors import StageError
from components.pretrain.parallel import tell_launcher
if os.environ["RANK"] == "1":
    tell_launcher(StageError("this node does not see the index", where="/cache/index"))
    sys.exit(2)
time.sleep(60)
"""


@pytest.mark.slow
def test_what_one_process_alone_refuses_is_told_by_the_launcher(world: World) -> None:
    (world.folder / "alone.py").write_text(ALONE)
    running = world.start([*LAUNCH, *PROCESSES, "python", "-m", "alone"])
    said, _ = running.communicate(timeout=120)
    assert running.returncode == ExitCode.BAD_INPUT
    assert said == "launch: process 1: this node does not see the index: /cache/index\n"


@pytest.fixture
def bucket(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The corpus in a store; yields the store's endpoint."""
    pytest.importorskip("boto3")
    with moto() as endpoint:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        store = Store(S3Params())
        store.client.create_bucket(Bucket="longtake")
        for name, folder in (("frames", world.frames), ("index", world.index)):
            outputs.mark(Path(folder), "test", name)
            upload_folder(store, Path(folder), f"s3://longtake/{name}")
        yield endpoint


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 8])
def test_the_nodes_of_a_train_job_train_as_the_processes_of_one(restarts: int, world: World, bucket: str) -> None:
    """The same bytes as two processes of one node, though a node is lost on the way and the data lie in a store.

    Without restarts the job fails and the launcher's next try makes another one; else the nodes find each other again.
    """
    pytest.importorskip("kubernetes")
    world.run([*LAUNCH, *PROCESSES, *world.stage("two/model")])
    world.frames, world.index, world.cache = "s3://longtake/frames", "s3://longtake/index", world.folder / "shared"
    settings = {
        "image": "i", "service_account": "s", "cache_pvc": "c", "secret": "keys", "secret_keys": list(KEYS),
        "config_map": "addresses", "config_map_keys": ["AWS_ENDPOINT_URL"], "run_as_user": 10001, "cpu": 1,
        "memory_gib": 1, "timeout_h": 1, "poll_s": 0.2,
    }  # fmt: skip
    nodes = [*LAUNCH, "--nodes", "2", "--settings", json.dumps(settings), "--", *world.stage("job/model")]
    api = KubeApi()
    kubelet = Kubelet(api, {**KEYS, "AWS_ENDPOINT_URL": bucket}, restarts)
    config = {"KUBECONFIG": str(api.kubeconfig(world.folder / "kubeconfig"))}
    try:
        launcher = world.start(nodes, **config)
        world.wait_for_checkpoint(launcher)
        kubelet.nodes[1].kill()
        said, _ = launcher.communicate(timeout=240)
        if not restarts:
            assert launcher.returncode == ExitCode.LOST, said
            assert said.splitlines()[-1].startswith("launch: node "), said
            assert not (world.folder / "job").exists()
            said = world.run(nodes, **config)
        assert "going on from the checkpoint of step" in said and said.count("done:") == 1, said
    finally:
        kubelet.stop()
        api.close()
    assert world.contents("job/model") == world.contents("two/model")
