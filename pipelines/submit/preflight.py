"""Before anything is submitted: is all there that the pods will ask for? Nothing is changed, only looked at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from components.common.config import section_of
from components.common.errors import StageError
from components.common.launch.manifest import GROUP, PLURAL, VERSION
from pipelines.cluster import Cluster
from pipelines.compile import Plan
from pipelines.needs import Needs
from pipelines.submit.capacity import check_nodes, check_quotas
from pipelines.submit.findings import Finding, error, warning
from pipelines.submit.kube import Kube

CHART = "helm install creates it, see charts/longtake"


def require(made: Plan, kube: Kube | None) -> None:
    """Print what was found; raises StageError if the run cannot succeed.

    Args:
        made: what is to be submitted.
        kube: the cluster; None leaves it unchecked and says so.
    """
    found = list(check_sources(made)) + list(check_images(made.cluster))
    if kube is None:
        found.append(warning("no way to the cluster, it was not checked", "--kubeconfig FILE, or --skip-preflight"))
    else:
        found += check_cluster(made, kube)
    for finding in found:
        print(f"{finding.level:<11} {finding}", file=sys.stderr)
    errors = sum(finding.level == "error" for finding in found)
    if errors:
        do = "mend it, or --skip-preflight if you know better"
        raise StageError(
            f"{errors} thing{'s' * (errors > 1)} would keep the run from succeeding, nothing submitted", do=do
        )
    if kube is not None:
        print(f"preflight   namespace {kube.namespace}: " + ("passed with warnings" if found else "passed"))


def check_cluster(made: Plan, kube: Kube) -> list[Finding]:
    """Everything that is looked up in Kubernetes."""
    status, _ = kube.maybe("look for the namespace", kube.core.read_namespace, kube.namespace)
    if status == 404:
        return [error(f"no namespace '{kube.namespace}'", f"--namespace NAME, or {CHART}")]
    needs = {node.stage: node.needs for node in made.dag.nodes}  # one pod size a stage
    found = list(_names(made.cluster, kube))
    found += check_nodes(kube, needs, made.cluster)
    found += check_quotas(kube, needs, made.cluster)
    return [*found, *_rights(made.cluster, kube, needs)]


def check_sources(made: Plan) -> Iterator[Finding]:
    """Datasets that lie on this machine: no pod can see them."""
    for node in made.dag.nodes:
        for path in (path for path in node.params if path.startswith("download.")):
            section = section_of(made.params, "download", path.partition(".")[2])
            if section.get("source") == "local" or str(section.get("path", "")).startswith("/"):
                text = f"{node.name} reads {section.get('path')}, which no pod can see"
                yield error(text, f"put it into the store and set {path}: {{source: s3, ...}}")


def check_images(cluster: Cluster) -> Iterator[Finding]:
    """An image without a digest can change under a run, and Kubeflow's cache would not notice."""
    for name, image in sorted(cluster.images.items()):
        if "@sha256:" not in image:
            yield warning(f"image {image} is named by a tag that can move", f"images.{name} by digest, name@sha256:...")


def _names(cluster: Cluster, kube: Kube) -> Iterator[Finding]:
    """The objects that the pods name."""
    core, namespace = kube.core, kube.namespace
    yield from _there(kube, "service account", cluster.service_account, core.read_namespaced_service_account)[0]
    for name in cluster.image_pull_secrets:
        yield from _there(kube, "image pull secret", name, core.read_namespaced_secret)[0]
    for kind, named, keys, read in (
        ("secret", cluster.secret, cluster.secret_keys, core.read_namespaced_secret),
        ("config map", cluster.config_map, cluster.config_map_keys, core.read_namespaced_config_map),
    ):
        if named:
            found, one = _there(kube, kind, named, read)
            yield from found
            if one is not None and (lacking := sorted(set(keys) - set(one.data or {}))):
                yield warning(f"{kind} '{named}' has no {', '.join(lacking)}")
    if cluster.cache_pvc:
        found, claim = _there(kube, "volume claim", cluster.cache_pvc, core.read_namespaced_persistent_volume_claim)
        yield from found
        if claim is not None:
            yield from _claim(claim, namespace, kube)


def _there(kube: Kube, kind: str, name: str, read: Callable[..., Any]) -> tuple[list[Finding], Any]:
    """What is wrong with a name, and the object behind it; forbidden to read is not an error."""
    status, found = kube.maybe(f"look for the {kind} '{name}'", read, name, kube.namespace)
    if status == 404:
        return [error(f"no {kind} '{name}' in namespace '{kube.namespace}'", CHART)], None
    if status == 403:
        return [warning(f"{kind} '{name}' may not be read: whether it is there is not known")], None
    return [], found


def _claim(claim: Any, namespace: str, kube: Kube) -> Iterator[Finding]:
    """A claim that binds with its first pod is fine; one that waits for a volume is not."""
    name, phase = claim.metadata.name, claim.status.phase
    if phase == "Lost":
        yield error(f"volume claim '{name}' has lost its volume")
    elif phase != "Bound":
        yield warning(f"volume claim '{name}' is {phase}", "fine if its storage class binds with the first pod")
    if phase == "Bound" and "ReadWriteMany" not in (claim.spec.access_modes or []):
        yield warning(f"volume claim '{name}' is for one node at a time: pods that share it wait for each other")


def _rights(cluster: Cluster, kube: Kube, needs: dict[str, Needs]) -> Iterator[Finding]:
    """What you may see of the run, and whether its pods may start a TrainJob."""
    for resource, sub, loses in (("pods", None, "why a task waits"), ("pods", "log", "logs of a failed task")):
        if not _allowed(kube, "list" if sub is None else "get", resource, sub):
            name = f"{resource}/{sub}" if sub else resource
            yield warning(f"you may not read {name} in '{kube.namespace}': no {loses} will be shown")
    if any(one.nodes > 1 for one in needs.values()):
        yield from _train_jobs(cluster, kube)


def _train_jobs(cluster: Cluster, kube: Kube) -> Iterator[Finding]:
    """A stage on several nodes starts a TrainJob: is Kubeflow Trainer there, and may the pods ask it for one?"""
    status, _ = kube.maybe("look for Kubeflow Trainer", kube.custom.get_api_resources, GROUP, VERSION)
    if status == 404:
        yield error(
            f"no Kubeflow Trainer with {GROUP}/{VERSION}, which nodes > 1 needs", "install it, or set nodes to 1"
        )
    elif _account_may(cluster, kube) is False:
        text = f"service account '{cluster.service_account}' may not create TrainJobs, which nodes > 1 needs"
        yield error(text, "pipelines.trainJobs.enabled in the chart's values")


def _allowed(kube: Kube, verb: str, resource: str, sub: str | None) -> bool:
    from kubernetes import client as api

    asked = api.V1ResourceAttributes(namespace=kube.namespace, verb=verb, resource=resource, subresource=sub)
    review = api.V1SelfSubjectAccessReview(spec=api.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    answer = kube.get("ask what you may do", kube.access.create_self_subject_access_review, review)
    return bool(answer.status.allowed)


def _account_may(cluster: Cluster, kube: Kube) -> bool | None:
    """May the pods' account create TrainJobs? None where that may not be asked."""
    from kubernetes import client as api

    asked = api.V1ResourceAttributes(namespace=kube.namespace, verb="create", group=GROUP, resource=PLURAL)
    user = f"system:serviceaccount:{kube.namespace}:{cluster.service_account}"
    review = api.V1SubjectAccessReview(spec=api.V1SubjectAccessReviewSpec(user=user, resource_attributes=asked))
    _, answer = kube.maybe("ask what the pods may do", kube.access.create_subject_access_review, review)
    return bool(answer.status.allowed) if answer is not None else None
