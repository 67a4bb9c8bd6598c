"""The TrainJob: Kubeflow Trainer's API v1alpha1, since its version 2.2 (older ones know no `runtimePatches`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.launch.settings import MODULE, NodeSettings

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"  # on every pod: the name of its TrainJob
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"  # on every pod: its node's number
NODE = "node"  # the runtime's name of the job and of its container
MANAGER = "longtake.launch"
# Passed on by value: names of runs and revisions. Everything else goes by reference, so no secret stands in the job.
PASSED_ON = (
    "LONGTAKE_PIPELINE_RUN",
    "LONGTAKE_GIT_REVISION",
    "LONGTAKE_TRACKING",
    "LONGTAKE_S3",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_WORKSPACE",
)


def train_job(
    name: str,
    settings: NodeSettings,
    *,
    nodes: int,
    processes: int,
    gpus: int,
    command: Sequence[str],
    cache: Path,
    watched: Path,
    owner: dict[str, Any] | None,
) -> dict[str, Any]:
    """The job's manifest.

    Args:
        name: of the job.
        settings: what each node gets.
        nodes, processes, gpus: machines; processes and devices of each.
        command: of the stage.
        cache: where the shared claim is mounted, in this pod and in the nodes.
        watched: file by which the launching pod says that it still watches.
        owner: reference to what the job is deleted with.
    """
    launcher = ["python", "-m", MODULE, "--as-node", "--watched", str(watched), "--"]
    trainer = {
        "image": settings.image,
        "command": [*launcher, *command],
        "env": environment(settings, cache),
        "numNodes": nodes,
        "numProcPerNode": processes,
        "resourcesPerNode": resources(settings, gpus),
    }
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod(settings, cache)}}}}
    patch = {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "longtake"},
            "ownerReferences": [owner] if owner else [],
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": settings.runtime_kind, "name": settings.runtime},
            "trainer": trainer,
            "runtimePatches": [patch],
            "activeDeadlineSeconds": max(1, round(settings.timeout_h * 3600)),
        },
    }


def environment(settings: NodeSettings, cache: Path) -> list[dict[str, Any]]:
    """Addresses and credentials by reference; the names of this run by value."""
    plain = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    plain |= {**settings.env, "LONGTAKE_CACHE": str(cache)}
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(plain.items())]
    for kind, source, keys in (
        ("configMapKeyRef", settings.config_map, settings.config_map_keys),
        ("secretKeyRef", settings.secret, settings.secret_keys),
    ):
        if source:
            wanted = [key for key in keys if key not in plain]
            found += [{"name": k, "valueFrom": {kind: {"name": source, "key": k, "optional": True}}} for k in wanted]
    return found


def resources(settings: NodeSettings, gpus: int) -> dict[str, dict[str, str]]:
    """Requests equal limits, as for every pod of the pipeline."""
    wanted = {"cpu": f"{settings.cpu:g}", "memory": _mib(settings.memory_gib)}
    if gpus and settings.accelerator:
        wanted[settings.accelerator] = str(gpus)
    return {"requests": wanted, "limits": wanted}


def pod(settings: NodeSettings, cache: Path) -> dict[str, Any]:
    """What the nodes' pods have beyond the runtime's: volumes, place, identity, and no needless right."""
    volumes: list[dict[str, Any]] = [{"name": "cache", "persistentVolumeClaim": {"claimName": settings.cache_pvc}}]
    mounts = [{"name": "cache", "mountPath": str(cache)}]
    if settings.shm_gib:  # without it loader workers die with "Bus error": a pod's own /dev/shm has 64 MiB
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _mib(settings.shm_gib)}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": settings.node_selector,
        "tolerations": settings.tolerations,
        "securityContext": {
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_group,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": volumes,
        "containers": [{"name": NODE, "volumeMounts": mounts, "securityContext": closed}],
    }


def _mib(gib: float) -> str:
    return f"{round(gib * 1024)}Mi"
