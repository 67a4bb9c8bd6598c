"""The chart as the real helm renders it."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.tools import Unavailable, tool

CHART = Path(__file__).parents[2] / "charts" / "longtake"
KUBERNETES = "1.31"  # a helm built from its module takes every cluster for 1.20

EXTERNAL: dict[str, Any] = {
    "database": {
        "embedded": {"enabled": False},
        "external": {
            "host": "db.example.org",
            "existingSecret": "db-login",
            "passwordKey": "pw",
            "sslMode": "verify-full",
        },
    },
    "s3": {
        "existingSecret": "store-keys",
        "region": "eu-west-1",
        "embedded": {"enabled": False},
        "external": {"endpoint": "https://s3.eu-west-1.amazonaws.com"},
    },
    "networkPolicy": {"externalCidrs": ["52.218.0.0/17", "203.0.113.7/32"], "apiServer": {"cidrs": ["10.0.0.1/32"]}},
}
FULL: dict[str, Any] = {
    "imagePullSecrets": ["registry-login"],
    "storageClass": "fast",
    "mlflow": {
        "replicas": 2,
        "image": {"digest": "sha256:" + "a" * 64},
        "allowedHosts": ["mlflow.lan:*"],
        "corsAllowedOrigins": ["https://notebooks.example.org"],
        "ingress": {"enabled": True, "className": "nginx", "host": "mlflow.example.org", "tlsSecret": "tls"},
        "httpRoute": {"enabled": True, "host": "ml.example.org", "parentRefs": [{"name": "gateway"}]},
    },
    "pipelines": {
        "trainJobs": {"enabled": True},
        "kfp": {"driverPlugin": {"enabled": True}, "launcherConfig": {"create": True, "credentials": "secret"}},
        "cache": {"accessMode": "ReadWriteOnce", "storageClass": "shared"},
        "gpuPool": {"nodeSelector": {"pool": "h200"}},
        "cpuPool": {"tolerations": [{"key": "spot", "operator": "Exists"}]},
        "fanOutPods": 64,
    },
    "networkPolicy": {"internet": {"enabled": True}, "dns": {"cidrs": ["169.254.20.10/32"]}},
    "quota": {"requests.nvidia.com/gpu": "8", "pods": "200"},
    "limitRange": {"default": {"memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}},
}
MINIMAL: dict[str, Any] = {
    **EXTERNAL,
    "s3": {**EXTERNAL["s3"], "createBucket": False},
    "networkPolicy": {"enabled": False},
    "pipelines": {"cache": {"existingClaim": "my-cache"}},
}
OWN_PODS: dict[str, Any] = {"fullnameOverride": "other", "networkPolicy": {"wholeNamespace": False}}
SETS = {"defaults": {}, "external": EXTERNAL, "full": FULL, "minimal": MINIMAL, "own_pods": OWN_PODS}

Objects = list[dict[str, Any]]
Helm = Callable[..., subprocess.CompletedProcess[str]]
Render = Callable[[dict[str, Any]], Objects]


@pytest.fixture(scope="session")
def helm(pytestconfig: pytest.Config) -> Helm:
    """Runs helm. Building it takes minutes, so the fast set only uses one that is there."""
    try:
        binary = tool("helm", build="not slow" not in (pytestconfig.getoption("markexpr") or ""))
    except Unavailable as error:
        pytest.skip(str(error))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def template(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """`helm template` of the release `longtake` with these values and further arguments; may fail."""
    folder = tmp_path_factory.mktemp("values")

    def run(values: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        file = folder / f"{len(list(folder.iterdir()))}.yaml"
        file.write_text(yaml.safe_dump(values))
        where = ["--namespace", "longtake", "--kube-version", KUBERNETES, "--values", file]
        return helm("template", "longtake", CHART, *where, *arguments)

    return run


@pytest.fixture(scope="session")
def render(template: Helm) -> Render:
    """The objects of these values, hooks among them; each set is rendered once."""
    rendered: dict[str, Objects] = {}

    def run(values: dict[str, Any]) -> Objects:
        key = json.dumps(values)
        if key not in rendered:
            process = template(values)
            assert process.returncode == 0, process.stderr
            rendered[key] = [document for document in yaml.safe_load_all(process.stdout) if document]
        return copy.deepcopy(rendered[key])

    return run


@pytest.fixture(scope="session", params=SETS)
def objects(request: pytest.FixtureRequest, render: Render) -> Objects:
    """Each set of values in turn."""
    return render(SETS[request.param])


def kind(objects: Objects, *kinds: str) -> Objects:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name (a Job's name without its hash)."""
    found = [o for o in objects if o["kind"] == kind and _plain(o) == name]
    assert len(found) == 1, f"{kind} {name}: {[_plain(o) for o in objects if o['kind'] == kind]}"
    return found[0]


def _plain(each: dict[str, Any]) -> str:
    name: str = each["metadata"]["name"]
    return name.rpartition("-")[0] if each["kind"] == "Job" else name


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Pods and pod templates by component: {"metadata": ..., "spec": ...}."""
    templates = [o if o["kind"] == "Pod" else o["spec"]["template"] for o in objects if _runs(o)]
    return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in templates}


def _runs(each: dict[str, Any]) -> bool:
    return each["kind"] in ("Pod", "Deployment", "StatefulSet", "Job")


def containers(pod: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
