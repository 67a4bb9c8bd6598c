"""What each node of a TrainJob gets, as the compiler tells the launcher; and the launcher's command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.common.config import Params, parse

MODULE = "components.common.launch"


class NodeSettings(Params):
    """One node of a TrainJob, and how long to be patient with it."""

    image: str
    service_account: str
    image_pull_secrets: list[str] = Field(default_factory=list)
    config_map: str | None = Field(None, description="addresses: becomes environment, by reference")
    config_map_keys: list[str] = Field(default_factory=list)
    secret: str | None = Field(None, description="credentials: becomes environment, by reference")
    secret_keys: list[str] = Field(default_factory=list)
    cache_pvc: str | None = Field(None, description="seen by all nodes (ReadWriteMany): checkpoints, outputs")
    env: dict[str, str] = Field(default_factory=dict, description="further environment; no secrets")
    run_as_user: int = Field(gt=0)
    run_as_group: int = Field(0, ge=0)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    cpu: float = Field(gt=0, description="cores")
    memory_gib: float = Field(gt=0)
    shm_gib: float = Field(0, ge=0, description="of the memory, as /dev/shm for loader workers")
    accelerator: str | None = Field(None, description="Kubernetes' resource name, such as nvidia.com/gpu")
    timeout_h: float = Field(gt=0, description="the job is ended after so long")
    runtime: str = Field("torch-distributed", description="Kubeflow Trainer's runtime")
    runtime_kind: str = Field("ClusterTrainingRuntime", pattern="^(Cluster)?TrainingRuntime$")
    poll_s: float = Field(5, gt=0, description="between two looks at the job")
    unschedulable_s: float = Field(3600, gt=0, description="longest wait for machines with room")
    not_started_s: float = Field(300, gt=0, description="longest wait for an image, a secret, a volume")
    api_away_s: float = Field(600, gt=0, le=600, description="longest time that the Kubernetes API may not answer")

    @classmethod
    def of(cls, cluster: Mapping[str, Any], needs: Mapping[str, Any]) -> NodeSettings:
        """From a cluster's settings and a stage's needs (both as plain mappings, `pipelines` owns their models)."""
        pool = cluster["gpu_pool"] if needs.get("gpus") else cluster["cpu_pool"]
        told = {name: cluster[name] for name in cls.model_fields if name in cluster}
        told |= {name: needs[name] for name in cls.model_fields if name in needs}
        told |= {"image": cluster["images"][needs["image"]], "node_selector": pool["node_selector"]}
        told["tolerations"] = [
            {key: value for key, value in toleration.items() if value is not None} for toleration in pool["tolerations"]
        ]
        return parse(cls, told, "cluster settings and meta")


def launch_command(nodes: int, gpus: int, settings: NodeSettings | None = None) -> list[str]:
    """The words before a stage's own command; none where one process is enough.

    Args:
        nodes: machines that train together; `settings` are needed for more than one.
        gpus: of each node, a process for each.
        settings: what a node of a TrainJob gets.
    """
    if nodes == 1 and gpus <= 1:
        return []
    command = ["python", "-m", MODULE, "--nodes", str(nodes), "--gpus", str(gpus)]
    if nodes > 1:
        assert settings is not None, "several nodes need settings"
        # no two braces meet, which Argo would take for a template of its own
        told = json.dumps(settings.model_dump(exclude_defaults=True), sort_keys=True, indent=0).replace("\n", " ")
        command += ["--settings", told]
    return [*command, "--"]
