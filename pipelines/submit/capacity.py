"""Would the cluster take the pods: nodes, their taints and labels, what is free on them now, quotas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pipelines.cluster import Cluster, Pool, Toleration
from pipelines.needs import Needs
from pipelines.submit.findings import Finding, error, warning
from pipelines.submit.kube import Kube

KEEPS_OUT = ("NoSchedule", "NoExecute")
GIB = 2**30
Amounts = dict[str, Decimal]  # resource -> cores, bytes or devices


@dataclass
class Machine:
    """A node that takes pods: its name, labels and taints, what it offers and what is free of it."""

    name: str
    labels: dict[str, str]
    taints: list[Any]
    offers: Amounts
    free: Amounts = field(default_factory=dict)

    def admits(self, pool: Pool) -> bool:
        """Do its labels and taints let a pod of this pool in?"""
        if any(self.labels.get(key) != value for key, value in pool.node_selector.items()):
            return False
        return all(any(tolerates(one, taint) for one in pool.tolerations) for taint in self.taints)


def tolerates(toleration: Toleration, taint: Any) -> bool:
    """Kubernetes' own rule: an empty key or effect matches all, `Exists` any value."""
    if toleration.effect not in (None, taint.effect) or toleration.key not in (None, taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.value or "")


def check_nodes(kube: Kube, needs: Mapping[str, Needs], cluster: Cluster) -> list[Finding]:
    """An error for a stage that no node could ever take, a warning for one that has to wait now.

    Args:
        kube: the cluster.
        needs: stage -> what one pod of it needs.
        cluster: pools.
    """
    status, nodes = kube.everything("list the nodes", kube.core.list_node)
    if status != 200:
        return [warning("nodes may not be listed: whether the pods fit is not known", "ask for get and list of nodes")]
    status, pods = kube.everything("list the pods", kube.core.list_pod_for_all_namespaces)
    machines = read_machines(nodes, pods)
    found = [finding for stage, one in needs.items() for finding in _fit(stage, one, cluster, machines)]
    if status != 200:
        found.append(warning("pods of other namespaces may not be listed: what is free on the nodes is not known"))
    return found


def read_machines(nodes: Iterable[Any], pods: Iterable[Any]) -> list[Machine]:
    """The nodes that are ready and open to pods, with what the pods on them leave free."""
    machines = {
        node.metadata.name: Machine(
            node.metadata.name,
            node.metadata.labels or {},
            [taint for taint in node.spec.taints or [] if taint.effect in KEEPS_OUT],
            amounts(node.status.allocatable),
        )
        for node in nodes
        if not node.spec.unschedulable and _ready(node)
    }
    for machine in machines.values():
        machine.free = dict(machine.offers)
    for pod in pods:
        taker = machines.get(pod.spec.node_name or "")
        if taker and pod.status.phase not in ("Succeeded", "Failed"):
            for resource, amount in requested(pod).items():
                taker.free[resource] = taker.free.get(resource, Decimal(0)) - amount
    return list(machines.values())


def requested(pod: Any) -> Amounts:
    """What the scheduler counts for a pod: its containers together, or its largest init container."""
    total: Amounts = {}
    for container in pod.spec.containers:
        for resource, amount in _requests(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    for container in pod.spec.init_containers or []:
        for resource, amount in _requests(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount)
    return total


def wanted(needs: Needs, gpus: bool = True) -> Amounts:
    """What one pod of a stage requests; shm is part of its memory."""
    amounts: Amounts = {"cpu": Decimal(str(needs.cpu)), "memory": Decimal(str(needs.memory_gib)) * GIB}
    if gpus and needs.gpus and needs.accelerator:
        amounts[needs.accelerator] = Decimal(needs.gpus)
    return amounts


def check_quotas(kube: Kube, needs: Mapping[str, Needs], cluster: Cluster) -> list[Finding]:
    """An error for a stage that a ResourceQuota can never admit, a warning where the room is taken now."""
    listing = kube.core.list_namespaced_resource_quota
    _, quotas = kube.everything("read the quotas", listing, kube.namespace)
    found = []
    for quota in quotas:
        hard, used = amounts(quota.status.hard), amounts(quota.status.used)
        for stage, one in needs.items():
            for resource, amount in wanted(one, cluster.gpus).items():
                for name in {f"requests.{resource}", f"limits.{resource}", resource} & set(hard):
                    limit, left = hard[name], hard[name] - used.get(name, Decimal(0))
                    text = f"{stage} needs {say(resource, amount * one.nodes)}, quota '{quota.metadata.name}' "
                    if amount * one.nodes > limit:
                        do = f"raise {name} of the quota, or lower the stage's meta"
                        found.append(error(f"{text}allows {say(resource, limit)}", do))
                    elif amount * one.nodes > left:
                        found.append(warning(f"{text}has {say(resource, left)} left of {name}: it has to wait"))
    return sorted(found, key=str)


def amounts(quantities: Mapping[str, str] | None) -> Amounts:
    """Kubernetes' quantities (`500m`, `16Gi`) as numbers."""
    from kubernetes.utils import parse_quantity

    return {resource: parse_quantity(text) for resource, text in (quantities or {}).items()}


def say(resource: str, amount: Decimal) -> str:
    """`16 GiB of memory`, `8 cpu`, `1 nvidia.com/gpu`."""
    if resource == "memory":
        return f"{float(amount) / GIB:g} GiB of memory"
    return f"{float(amount):g} {resource}"


def _fit(stage: str, needs: Needs, cluster: Cluster, machines: list[Machine]) -> list[Finding]:
    on_gpus = bool(needs.gpus and cluster.gpus)
    need, pool = wanted(needs, cluster.gpus), cluster.gpu_pool if on_gpus else cluster.cpu_pool
    name = "gpu_pool" if on_gpus else "cpu_pool"
    what = ", ".join(say(resource, amount) for resource, amount in need.items())
    admitting = [machine for machine in machines if machine.admits(pool)]
    if not admitting:
        do = f"check node_selector and tolerations of {name} in the cluster's settings"
        return [error(f"{stage}: none of {len(machines)} ready nodes lets its pods in", do)]
    large = [machine for machine in admitting if _covers(machine.offers, need)]
    if len(large) < needs.nodes:
        short = _missing(admitting, need)
        text = f"{stage} needs {needs.nodes} node{'s' * (needs.nodes > 1)} with {what}; "
        return [
            error(f"{text}{len(large)} of {len(admitting)} are large enough{short}", "lower its meta, or add nodes")
        ]
    free = [machine for machine in large if _covers(machine.free, need)]
    if len(free) < needs.nodes:
        return [
            warning(f"{stage} has to wait: {what} are free on {len(free)} of {len(large)} nodes that could take it")
        ]
    return []


def _missing(machines: list[Machine], need: Amounts) -> str:
    """` (the largest offers 40 GiB of memory)`: of what no node has enough."""
    largest = {name: max(machine.offers.get(name, Decimal(0)) for machine in machines) for name in need}
    short = [say(name, largest[name]) for name in need if largest[name] < need[name]]
    return f" (at most {', '.join(short)} on one)" if short else ""


def _covers(has: Amounts, need: Amounts) -> bool:
    return all(has.get(resource, Decimal(0)) >= amount for resource, amount in need.items())


def _requests(container: Any) -> Amounts:
    return amounts(container.resources.requests if container.resources else None)


def _ready(node: Any) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or [])
