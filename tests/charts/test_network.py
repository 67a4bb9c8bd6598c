"""Who reaches whom. The table is the whole truth: what it does not list is closed."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.charts.conftest import EXTERNAL, FULL, OWN_PODS, Objects, Render, kind, named, pods
from tests.charts.network import Pod, connects, in_block

METADATA = "169.254.169.254"
KFP = {"pipelines.kubeflow.org/v2_component": "true"}
OTHERS = {
    "pipeline": Pod("longtake", {**KFP, "longtake/stage": "pretrain"}),
    "download": Pod("longtake", {**KFP, "longtake/stage": "download"}),
    "trainjob": Pod("longtake", {"jobset.sigs.k8s.io/jobset-name": "dino"}),
    "agent": Pod("longtake", {"workflows.argoproj.io/component": "agent"}),
    "neighbour": Pod("longtake", {"app": "notebook"}),
    "kubeflow": Pod("kubeflow", {"app": "ml-pipeline"}),
    "stranger": Pod("default", {"app": "shell"}),
    "dns": Pod("kube-system", {"k8s-app": "kube-dns"}),
}
PORTS = {"mlflow": 5000, "postgresql": 5432, "seaweedfs": 8333, "dns": 53, "kubeflow": 8887}
OPEN = {
    "mlflow": {"dns", "postgresql", "seaweedfs"},
    "migrate": {"dns", "postgresql"},
    "bucket": {"dns", "seaweedfs"},
    "check": {"dns", "mlflow", "seaweedfs"},
    "cache": set(),
    "postgresql": set(),
    "seaweedfs": set(),
    "pipeline": {"dns", "mlflow", "seaweedfs", "kubeflow"},
    "download": {"dns", "mlflow", "seaweedfs", "kubeflow"},
    "trainjob": set(),
    "agent": set(),
    "neighbour": set(),
    "kubeflow": {"seaweedfs"},
    "stranger": set(),
}


def everyone(objects: Objects) -> dict[str, Pod]:
    """The pods of the release and those around it."""
    return {name: Pod("longtake", pod["metadata"]["labels"]) for name, pod in pods(objects).items()} | OTHERS


def ways(objects: Objects) -> dict[str, set[str]]:
    """Who reaches whom at the port where it listens, with one of the two in our namespace."""
    policies, all_pods = kind(objects, "NetworkPolicy"), everyone(objects)
    open_ways: dict[str, set[str]] = {name: set() for name in all_pods if name != "dns"}
    for source, target in product(open_ways, PORTS):
        inside = "longtake" in (all_pods[source].namespace, all_pods[target].namespace)
        protocol = "UDP" if target == "dns" else "TCP"
        if inside and connects(policies, all_pods[source], all_pods[target], PORTS[target], protocol):
            open_ways[source].add(target)
    return open_ways


def test_the_open_ways(render: Render) -> None:
    assert ways(render({})) == OPEN


def test_train_jobs_get_theirs_only_on_demand(render: Render) -> None:
    objects = render({"pipelines": {"trainJobs": {"enabled": True}}})
    assert ways(objects) == {**OPEN, "trainjob": {"dns", "mlflow", "seaweedfs"}}
    policies, worker = kind(objects, "NetworkPolicy"), OTHERS["trainjob"]
    assert connects(policies, worker, worker, 29500) and connects(policies, worker, worker, 41234)  # rendezvous, NCCL
    assert not connects(policies, OTHERS["pipeline"], worker, 29500)


def test_argos_agent_gets_what_a_pipeline_has_only_on_demand(render: Render) -> None:
    objects = render({"pipelines": {"kfp": {"driverPlugin": {"enabled": True}}}})
    assert ways(objects) == {**OPEN, "agent": OPEN["pipeline"]}


def test_a_shared_namespace_keeps_its_own_ways(render: Render) -> None:
    """`wholeNamespace: false`: a neighbour is as free as before, and still does not reach what is closed."""
    found = ways(render(OWN_PODS))
    free = {"dns", "kubeflow"}
    assert found == {**OPEN, "neighbour": free, "trainjob": free, "agent": free}


@pytest.mark.parametrize("values", [{}, FULL, EXTERNAL, OWN_PODS], ids=["defaults", "full", "external", "own_pods"])
def test_nobody_reaches_the_metadata_address(values: dict[str, Any], render: Render) -> None:
    objects = render(values)
    policies = kind(objects, "NetworkPolicy")
    free = ("neighbour", "trainjob", "agent") if values is OWN_PODS else ()
    for name, pod in everyone(objects).items():
        if pod.namespace == "longtake" and name not in free:
            assert not any(connects(policies, pod, METADATA, port) for port in (80, 443, 53, 6443)), name
    blocks = [
        peer["ipBlock"]
        for p in policies
        for rule in p["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks and not any(in_block(block, METADATA) for block in blocks)


def test_the_internet_is_closed_and_opens_for_downloads_alone(render: Render) -> None:
    def reaching(values: dict[str, Any], address: str, port: int) -> set[str]:
        objects = render(values)
        policies = kind(objects, "NetworkPolicy")
        inside = {name: pod for name, pod in everyone(objects).items() if pod.namespace == "longtake"}
        return {name for name, pod in inside.items() if connects(policies, pod, address, port)}

    narrow = {"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1/32"]}}}
    opened = {"networkPolicy": {**narrow["networkPolicy"], "internet": {"enabled": True}}}
    all_pods = {
        "networkPolicy": {
            **narrow["networkPolicy"],
            "internet": {"enabled": True, "podLabels": {"longtake/stage": None}},
        }
    }
    assert reaching(narrow, "93.184.215.14", 443) == set()
    assert reaching(narrow, "10.0.0.1", 443) == {"pipeline", "download"}  # the Kubernetes API
    assert reaching(opened, "93.184.215.14", 443) == reaching(opened, "93.184.215.14", 80) == {"download"}
    assert reaching(opened, "93.184.215.14", 22) == reaching(opened, "192.168.1.1", 443) == set()
    assert reaching(all_pods, "93.184.215.14", 443) == {"pipeline", "download"}


def test_the_label_of_downloads_is_the_one_that_the_compiler_gives(render: Render) -> None:
    from pipelines.platform import STAGE_LABEL

    policy = named(render({"networkPolicy": {"internet": {"enabled": True}}}), "NetworkPolicy", "longtake-internet")
    assert policy["spec"]["podSelector"]["matchLabels"] == {**KFP, STAGE_LABEL: "download"}


def test_external_stores_are_reached_at_their_addresses_and_ports(render: Render) -> None:
    objects = render(EXTERNAL)
    policies, all_pods = kind(objects, "NetworkPolicy"), everyone(objects)

    def reach(port: int) -> set[str]:
        inside = {name: pod for name, pod in all_pods.items() if pod.namespace == "longtake"}
        return {name for name, pod in inside.items() if connects(policies, pod, "203.0.113.7", port)}

    assert reach(5432) == {"mlflow", "migrate"}
    assert reach(443) == {"mlflow", "bucket", "check", "pipeline", "download"}


@pytest.mark.parametrize(
    ("endpoint", "port"), [("http://minio.lan:9000", 9000), ("http://minio.lan", 80), ("https://s3.lan", 443)]
)
def test_the_port_of_a_store_is_the_one_of_its_address(endpoint: str, port: int, render: Render) -> None:
    objects = render({"s3": {**EXTERNAL["s3"], "external": {"endpoint": endpoint}}})
    policies, bucket = kind(objects, "NetworkPolicy"), everyone(objects)["bucket"]
    assert [p for p in (80, 443, 9000) if connects(policies, bucket, "203.0.113.7", p)] == [port]


def test_more_peers_by_values(render: Render) -> None:
    proxy = Pod("ingress", {"app": "proxy"})
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    closed = render({})
    objects = render({"networkPolicy": {"mlflowFrom": [peer]}})
    mlflow = everyone(objects)["mlflow"]
    assert connects(kind(objects, "NetworkPolicy"), proxy, mlflow, 5000)
    assert not connects(kind(closed, "NetworkPolicy"), proxy, mlflow, 5000)


def test_a_node_local_resolver_is_one_address(render: Render) -> None:
    objects = render(FULL)
    policies, mlflow = kind(objects, "NetworkPolicy"), everyone(objects)["mlflow"]
    assert connects(policies, mlflow, "169.254.20.10", 53, "UDP")
    assert not connects(policies, mlflow, "169.254.20.11", 53, "UDP")
