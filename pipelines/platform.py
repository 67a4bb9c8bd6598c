"""What Kubernetes must give a task: cores, memory, devices, retries, time, environment, places to write."""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from pipelines.cluster import Cluster, Pool
from pipelines.needs import Needs

CACHE = "/cache"  # the images' LONGTAKE_CACHE
RUN_LABEL = "metadata.labels['pipeline/runid']"  # Kubeflow labels each pod with its run
STAGE_LABEL = "longtake/stage"  # the chart's network policies let download pods out, and no others
SECONDS_PER_HOUR = 3600
MIB_PER_GIB = 1024


def place(task: Any, stage: str, needs: Needs, cluster: Cluster) -> None:
    """Everything a pod of the pipeline needs, from a stage's `meta` and the cluster's settings."""
    kubernetes.add_pod_label(task, STAGE_LABEL, stage)
    resources(task, needs)
    if needs.gpus:
        gpus(task, needs, cluster.gpu_pool)
    else:
        pool(task, cluster.cpu_pool)
    if needs.shm_gib:  # without it loader workers die with "Bus error": a pod's own /dev/shm has 64 MiB
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=_mib(needs.shm_gib))  # noqa: S108
    kubernetes.set_timeout(task, round(needs.timeout_h * SECONDS_PER_HOUR))
    retry(task, cluster)
    environment(task, cluster)
    security(task, cluster)
    task.set_caching_options(needs.cache)


def resources(task: Any, needs: Needs) -> None:
    """Requests equal limits: a pod is not evicted for what a neighbour takes."""
    task.set_cpu_request(f"{needs.cpu:g}").set_cpu_limit(f"{needs.cpu:g}")
    task.set_memory_request(_mib(needs.memory_gib)).set_memory_limit(_mib(needs.memory_gib))


def gpus(task: Any, needs: Needs, where: Pool) -> None:
    """A limit counts only together with the type; nodes with devices are tainted, so the pool's tolerations too."""
    task.set_accelerator_type(needs.accelerator).set_accelerator_limit(needs.gpus)
    pool(task, where)


def pool(task: Any, where: Pool) -> None:
    for key, value in where.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in where.tolerations:
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value, toleration.effect)


def retry(task: Any, cluster: Cluster) -> None:
    """The window is given: Kubeflow's default of an hour, counted from the first start, excludes every long stage."""
    told = cluster.retry
    task.set_retry(told.attempts, f"{told.backoff_s}s", told.factor, f"{told.window_s}s")


def environment(task: Any, cluster: Cluster) -> None:
    """Addresses from the namespace's config map, credentials from its secret: neither stands in the pipeline."""
    kubernetes.use_field_path_as_env(task, "LONGTAKE_PIPELINE_RUN", RUN_LABEL)
    if cluster.config_map:
        keys = {key: key for key in cluster.config_map_keys}
        kubernetes.use_config_map_as_env(task, cluster.config_map, keys, optional=True)
    if cluster.secret:
        kubernetes.use_secret_as_env(task, cluster.secret, {key: key for key in cluster.secret_keys}, optional=True)
    if cluster.cache_pvc:  # resumable work outlives the pod
        kubernetes.mount_pvc(task, cluster.cache_pvc, CACHE)
    for name, value in cluster.env.items():
        task.set_env_variable(name, value)


def security(task: Any, cluster: Cluster) -> None:
    """A numeric user who is not root. Kubeflow itself drops all capabilities and forbids to gain any."""
    kubernetes.set_security_context(task, cluster.run_as_user, cluster.run_as_group, run_as_non_root=True)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.image_pull_secrets)


def _mib(gib: float) -> str:
    return f"{round(gib * MIB_PER_GIB)}Mi"
