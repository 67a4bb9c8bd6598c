"""A launching pod and what becomes of its job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common import outputs
from components.common.launch.__main__ import main
from tests.common.kube_api import KubeApi

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, Any] = {
    "image": "registry/longtake/train@sha256:0",
    "service_account": "longtake-pipeline",
    "image_pull_secrets": ["pull"],
    "config_map": "longtake-env",
    "config_map_keys": ["MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"],
    "secret": "longtake-s3",
    "secret_keys": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "cache_pvc": "longtake-cache",
    "run_as_user": 10001,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "cpu": 16,
    "memory_gib": 64,
    "shm_gib": 16,
    "accelerator": "nvidia.com/gpu",
    "timeout_h": 2,
    "poll_s": 0.01,
    "unschedulable_s": 0.2,
    "not_started_s": 0.2,
    "api_away_s": 0.5,
}
RUN = "s3://longtake/kfp/longtake/run-1/pretrain"
EXECUTOR_INPUT = {
    "inputs": {
        "artifacts": {
            "frames": {"artifacts": [{"name": "frames", "uri": "s3://longtake/kfp/frames"}]},
            "index": {"artifacts": [{"name": "index", "uri": "minio://longtake/kfp/index"}]},
        }
    },
    "outputs": {"artifacts": {"model": {"artifacts": [{"name": "model", "uri": f"{RUN}/model", "metadata": {}}]}}},
}


class World:
    """A launching pod: its working folder, its cache, its command."""

    def __init__(self, folder: Path, api: KubeApi) -> None:
        self.folder, self.api, self.cache = folder, api, folder / "cache"
        self.output_file = folder / "kfp" / "executor_output.json"
        told = {**EXECUTOR_INPUT, "outputs": {**EXECUTOR_INPUT["outputs"], "outputFile": str(self.output_file)}}
        self.stage = ["python", "-m", "components.pretrain", "--method", "dino"]
        self.stage += ["--frames", "/s3/longtake/kfp/frames", "--index", "/minio/longtake/kfp/index"]
        self.stage += ["--model", str(folder / "out" / "model"), "--param", "seed=0"]
        self.stage += ["--executor-input", json.dumps(told)]

    def arguments(self, nodes: int = 2, gpus: int = 8, **changes: Any) -> list[str]:
        settings = json.dumps({**SETTINGS, **changes})
        return ["--nodes", str(nodes), "--gpus", str(gpus), "--settings", settings, "--", *self.stage]

    def launch(self, **changes: Any) -> int:
        return main(self.arguments(**changes))

    def nodes_write(self, api: KubeApi) -> None:
        """What rank 0 leaves in the shared cache."""
        command = api.job["spec"]["trainer"]["command"]
        model = Path(command[command.index("--model") + 1])
        model.mkdir(parents=True)
        (model / "encoder.safetensors").write_bytes(b"weights")
        outputs.mark(model, "pretrain", "model")
        told = json.loads(command[command.index("--executor-input") + 1])
        artifacts = {"model": {"artifacts": [{"name": "model", "uri": f"{RUN}/model", "metadata": {"step": 6}}]}}
        Path(told["outputs"]["outputFile"]).write_text(json.dumps({"artifacts": artifacts}))


def running(api: KubeApi) -> None:
    for node in range(api.job["spec"]["trainer"]["numNodes"]):
        api.pod(node, "Running", running={})


def ends_well(world: World) -> list[Callable[[KubeApi], None]]:
    def complete(api: KubeApi) -> None:
        api.say(0, "step 2")
        world.nodes_write(api)
        api.condition("Complete")

    return [running, lambda api: api.say(0, "step 1"), lambda api: None, complete]
