"""Every set of values renders, to objects that an API server would take."""

from __future__ import annotations

import re
from collections import Counter

import yaml

from tests.charts.conftest import CHART, SETS, Helm, Objects, Render, kind, named, pods
from tests.charts.openapi import problems

CUSTOM = {"HTTPRoute"}


def test_lint_finds_nothing(helm: Helm) -> None:
    process = helm("lint", "--strict", CHART, "--kube-version", "1.31")
    assert process.returncode == 0 and "[WARNING]" not in process.stdout, process.stdout


def test_objects_have_the_fields_and_types_of_kubernetes(objects: Objects) -> None:
    assert [p for each in objects if each["kind"] not in CUSTOM for p in problems(each)] == []


def test_the_check_of_types_can_fail(render: Render) -> None:
    deployment = named(render({}), "Deployment", "longtake-mlflow")
    deployment["spec"]["template"]["spec"]["containers"][0]["securitycontext"] = {}
    deployment["spec"]["replicas"] = "two"
    del deployment["spec"]["selector"]
    assert [problem.split(":")[0] for problem in problems(deployment)] == [
        "Deployment.spec.replicas",
        "Deployment.spec.template.spec.containers[0]",
        "Deployment.spec",
    ]


def test_names_are_given_once_and_lie_in_the_namespace(objects: Objects) -> None:
    assert {each["metadata"]["namespace"] for each in objects} == {"longtake"}
    assert max(Counter((o["kind"], o["metadata"]["name"]) for o in objects).values()) == 1


def test_the_parts_of_each_set(render: Render) -> None:
    """What is switched off leaves nothing behind."""
    parts = {name: set(pods(render(values))) for name, values in SETS.items()}
    jobs = {"migrate", "bucket", "cache", "check"}
    assert parts["defaults"] == parts["full"] == parts["own_pods"] == {"mlflow", "postgresql", "seaweedfs"} | jobs
    assert parts["external"] == {"mlflow"} | jobs
    assert parts["minimal"] == {"mlflow"} | jobs - {"bucket"}
    assert kind(render(SETS["minimal"]), "NetworkPolicy", "PersistentVolumeClaim", "Secret") == []


def test_what_is_off_by_default(render: Render) -> None:
    off = ("Ingress", "HTTPRoute", "PodDisruptionBudget", "ResourceQuota", "LimitRange")
    assert kind(render({}), *off) == []
    assert len(kind(render(SETS["full"]), *off)) == len(off)


def test_the_same_values_give_the_same_bytes_but_for_generated_secrets(template: Helm) -> None:
    def stable(text: str) -> list[dict]:
        return [d for d in yaml.safe_load_all(text) if d and d["kind"] != "Secret"]

    first, second = (template({}).stdout for _ in range(2))
    assert stable(first) == stable(second) and first != second


def test_jobs_are_named_by_what_they_do(render: Render) -> None:
    """A Job cannot be changed: another image must give another name, and nothing else may."""
    plain, newer, more = (
        {o["metadata"]["name"] for o in kind(render(values), "Job")}
        for values in (
            {},
            {"mlflow": {"image": {"tag": "v3.18.0-full"}}},
            {"mlflow": {"replicas": 3}, "quota": {"pods": "9"}},
        )
    )
    assert plain == more and not plain & newer and len(newer) == 3


def test_a_name_that_only_a_release_may_have_gives_names_for_all(helm: Helm) -> None:
    process = helm("template", "video.ssl-" + "x" * 40, CHART, "--kube-version", "1.31")
    names = {d["metadata"]["name"] for d in yaml.safe_load_all(process.stdout) if d}
    assert process.returncode == 0 and all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)


def test_an_old_cluster_is_refused(template: Helm) -> None:
    process = template({}, "--kube-version", "1.27")
    assert process.returncode and "requires kubeVersion" in process.stderr
