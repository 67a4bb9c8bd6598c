"""The chart on a real Kubernetes API server: what it checks, admits and permits is Kubernetes' own word."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.conftest import CHART, EXTERNAL, FULL, Helm, Render, pods
from tests.charts.servers import ControlPlane, control_plane
from tests.charts.tools import Unavailable

pytestmark = pytest.mark.slow

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
# An HTTPRoute is no kind of this server, whose groups are Kubernetes' own.
NO_ROUTE = {**FULL, "mlflow": {**FULL["mlflow"], "httpRoute": {"enabled": False}}}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    try:
        with control_plane(tmp_path_factory.mktemp("control_plane")) as running:
            yield running
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own that enforces the restricted standard."""
    name = request.node.originalname.replace("_", "-")[:60].strip("-")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    status, answer = plane.ask("/api/v1/namespaces", body)
    assert status == 201, answer
    return name


@pytest.fixture
def release(plane: ControlPlane, helm: Helm, namespace: str, tmp_path: Path) -> Any:
    """Runs helm COMMAND for the release `longtake` in the namespace of the test."""

    def run(command: str, values: dict[str, Any], *arguments: str) -> str:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        process = helm(command, "longtake", CHART, "--namespace", namespace, "--values", file, *arguments, *plane.flags)
        assert process.returncode == 0, process.stderr
        # a pod that breaks the standard, or a field nobody knows, is a warning here
        assert "arning" not in process.stderr, process.stderr
        return process.stdout

    return run


@pytest.mark.parametrize("values", [{}, EXTERNAL, NO_ROUTE], ids=["defaults", "external", "full"])
def test_installs(values: dict[str, Any], plane: ControlPlane, helm: Helm, tmp_path: Path, request: Any) -> None:
    name = request.node.callspec.id
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    plane.ask("/api/v1/namespaces", body)
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    process = helm("install", "longtake", CHART, "--namespace", name, "--values", file, *plane.flags)
    assert process.returncode == 0 and "arning" not in process.stderr, process.stderr
    again = helm("upgrade", "longtake", CHART, "--namespace", name, "--values", file, *plane.flags)
    assert again.returncode == 0, again.stderr


def test_notes_give_the_next_commands(release: Any, namespace: str) -> None:
    notes = release("install", {}).partition("NOTES:")[2]
    assert f"kubectl --namespace {namespace} get configmap longtake-cluster" in notes
    assert "-o jsonpath='{.data.cluster\\.yaml}' > cluster.yaml" in notes
    assert "python -m pipelines.submit" in notes and "helm test longtake" in notes
    assert "Name them by digest" in notes and "have no backup" in notes
    pinned = {name: f"registry/longtake/{name}@sha256:{'0' * 64}" for name in ("data", "train")}
    assert "Name them by digest" not in release("upgrade", {"pipelines": {"images": pinned}})


def test_an_upgrade_keeps_what_an_installation_generated(
    release: Any, plane: ControlPlane, namespace: str, helm: Helm
) -> None:
    def secrets() -> dict[str, dict[str, str]]:
        _, answer = plane.ask(f"/api/v1/namespaces/{namespace}/secrets")
        return {s["metadata"]["name"]: s["data"] for s in answer["items"] if s["type"] == "Opaque"}

    release("install", {})
    first = secrets()
    assert {name: set(data) for name, data in first.items()} == {
        "longtake-postgresql": {"password"},
        "longtake-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    }
    assert len(base64.b64decode(first["longtake-s3"]["AWS_SECRET_ACCESS_KEY"])) == 40
    release("upgrade", {"mlflow": {"replicas": 2}})
    assert secrets() == first
    # also after the release went and came back: its volumes still hold what these secrets open
    assert helm("uninstall", "longtake", "--namespace", namespace, *plane.flags).returncode == 0
    assert secrets() == first
    release("install", {})
    assert secrets() == first


def test_jobs_run_again_only_when_they_have_something_to_do(release: Any, plane: ControlPlane, namespace: str) -> None:
    def jobs() -> set[str]:
        _, answer = plane.ask(f"/apis/batch/v1/namespaces/{namespace}/jobs")
        return {job["metadata"]["name"] for job in answer["items"]}

    release("install", {})
    first = jobs()
    release("upgrade", {"mlflow": {"workers": 8}})
    assert jobs() == first
    release("upgrade", {"mlflow": {"image": {"tag": "v3.18.0-full"}}})
    assert len(jobs()) == 3 and not jobs() & first
    # one that gave up is deleted by hand, and the next upgrade makes it again
    gone = sorted(jobs())[0]
    plane.ask(f"/apis/batch/v1/namespaces/{namespace}/jobs/{gone}?propagationPolicy=Background", method="DELETE")
    assert len(jobs()) == 2
    release("upgrade", {"mlflow": {"image": {"tag": "v3.18.0-full"}}})
    assert len(jobs()) == 3 and gone in jobs()


def test_pods_are_admitted_where_only_restricted_ones_are(plane: ControlPlane, namespace: str, render: Render) -> None:
    def create(pod: dict[str, Any], name: str) -> tuple[int, dict[str, Any]]:
        spec = {"restartPolicy": "Always", **pod["spec"]}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": pod["metadata"]["labels"]},
            "spec": spec,
        }
        return plane.ask(f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict", body)

    for component, pod in pods(render(FULL)).items():
        status, answer = create(pod, component)
        # the claim template's volume is the StatefulSet's to add
        if component in ("postgresql", "seaweedfs"):
            pod["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
            status, answer = create(pod, component)
        assert status == 201, answer
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    status, answer = create(pod, "loose")
    assert status == 403 and "violates PodSecurity" in answer["message"]


def test_what_a_pipelines_account_may(plane: ControlPlane, release: Any, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:longtake-pipeline"

    def may(verb: str, resource: str, group: str = "", name: str = "", where: str = namespace) -> bool:
        attributes = {"namespace": where, "verb": verb, "group": group, "resource": resource, "name": name}
        resource, _, attributes["subresource"] = attributes["resource"].partition("/")
        attributes["resource"] = resource
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        body = {**review, "spec": {"user": account, "resourceAttributes": attributes}}
        _, answer = plane.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    trainer = "trainer.kubeflow.org"
    release("install", {})
    assert may("list", "pods") and may("get", "pods/log") and may("create", "workflowtaskresults", "argoproj.io")
    assert may("get", "configmaps", name="kfp-launcher") and not may("get", "configmaps", name="longtake-env")
    assert not any(may(verb, "secrets", name="longtake-s3") for verb in ("get", "list", "watch", "update"))
    assert not may("create", "pods") and not may("delete", "pods") and not may("create", "pods/exec")
    assert not may("list", "pods", where="default") and not may("create", "trainjobs", trainer)
    release("upgrade", {"pipelines": {"trainJobs": {"enabled": True}}})
    assert may("create", "trainjobs", trainer) and may("delete", "trainjobs", trainer) and may("watch", "jobs", "batch")
    assert not may("update", "trainjobs", trainer) and not may("delete", "jobs", "batch")
