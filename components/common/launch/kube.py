"""The few requests that a launcher makes to the Kubernetes API: patient with its absence, clear about its refusals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import ExitCode, StageError
from components.common.launch.manifest import GROUP, JOBSET_LABEL, NODE, PLURAL, VERSION

TIMEOUT_S = (10, 30)  # to connect, to answer
AGAIN_AFTER_S = 2.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RIGHTS = "the service account needs the rights that the chart gives with pipelines.trainJobs.enabled=true"


class Kube:
    """TrainJobs, pods and logs of one namespace.

    Args:
        client: of the `kubernetes` package.
        namespace: where the pipeline's pods run.
        away_s: how long the API may fail to answer before that counts.
    """

    def __init__(self, client: Any, namespace: str, away_s: float) -> None:
        from kubernetes import client as api

        self.namespace, self.away_s, self.host = namespace, away_s, str(client.configuration.host)
        self._custom, self._core = api.CustomObjectsApi(client), api.CoreV1Api(client)
        self._where = (GROUP, VERSION, namespace, PLURAL)

    def job(self, name: str) -> dict[str, Any] | None:
        """The TrainJob, or None where there is none of that name."""
        return self._ask("get", name, self._custom.get_namespaced_custom_object, *self._where, name)

    def create(self, manifest: dict[str, Any]) -> None:
        """Make the job. Strict: a field that the server does not know is an error, not silently dropped."""
        create = self._custom.create_namespaced_custom_object
        self._ask("create", manifest["metadata"]["name"], create, *self._where, manifest, field_validation="Strict")

    def delete(self, name: str) -> None:
        """Delete the job and its pods; one that is gone is fine."""
        delete = self._custom.delete_namespaced_custom_object
        self._ask("delete", name, delete, *self._where, name, propagation_policy="Foreground")

    def pods(self, name: str) -> list[Any]:
        """The pods of a job that are there now."""
        label = f"{JOBSET_LABEL}={name}"
        found = self._ask("list", "pods", self._core.list_namespaced_pod, self.namespace, label_selector=label)
        return list(found.items) if found is not None else []

    def pod(self, name: str) -> Any | None:
        return self._ask("get", f"pod {name}", self._core.read_namespaced_pod, name, self.namespace)

    def log(self, pod: str, *, since_s: int | None = None, tail: int | None = None) -> list[str]:
        """Lines of a node, each with its time before it; none while it has not started, or while the API is away."""
        from kubernetes.client import ApiException

        wanted = {"container": NODE, "timestamps": True, "since_seconds": since_s, "tail_lines": tail}
        read = self._core.read_namespaced_pod_log
        try:
            answer = read(pod, self.namespace, **wanted, _preload_content=False, _request_timeout=TIMEOUT_S)
            return list(answer.data.decode("utf-8", errors="replace").splitlines())
        except ApiException as error:
            if error.status in (401, 403):
                raise self._refused(error, "read the log of", pod) from None
            return []  # not started, or gone: the pod's state tells
        except _transient():
            return []

    def _ask(self, doing: str, what: str, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One request, tried again while the API is away; None where the object is not there."""
        from kubernetes.client import ApiException

        deadline = time.monotonic() + self.away_s
        while True:
            try:
                return request(*args, **kwargs, _request_timeout=TIMEOUT_S)
            except ApiException as error:
                if error.status == 404 and _is_absent(error):
                    return None
                if error.status == 409 and doing == "create":
                    return None  # made by a try whose answer was lost
                if error.status not in (429, 500, 502, 503, 504):
                    raise self._refused(error, doing, what) from None
                trouble = f"{error.status} {error.reason}"
            except _transient() as error:
                trouble = " ".join(str(error).split())[:160]
            if time.monotonic() > deadline:
                raise StageError(
                    f"the Kubernetes API does not answer, {trouble}", where=self.host, code=ExitCode.UNREACHABLE
                ) from None
            time.sleep(min(AGAIN_AFTER_S, self.away_s))

    def _refused(self, error: Any, doing: str, what: str) -> StageError:
        said = _message(error)
        if error.status == 404:
            do = "install Kubeflow Trainer 2.2 or later, or train on one node"
            return StageError("this cluster has no TrainJobs", where=f"{GROUP}/{VERSION}", do=do)
        if error.status in (401, 403) and "admission webhook" not in said:
            return StageError(f"no right to {doing} {what}", where=f"namespace {self.namespace}", do=RIGHTS)
        if "runtimePatches" in said:
            return StageError("Kubeflow Trainer is older than 2.2, it knows no runtimePatches", do="upgrade it")
        return StageError(f"Kubernetes refused to {doing} {what}, {said}", where=f"namespace {self.namespace}")


def connect(away_s: float) -> Kube:
    """The cluster that this pod runs in; else, for trying things, the one of the kubeconfig."""
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # `_ask` is patient itself
    try:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=settings, persist_config=False)
    except (config.ConfigException, OSError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise StageError(f"several nodes need a Kubernetes cluster, {why}") from None
    return Kube(client.ApiClient(settings), namespace(), away_s)


def namespace() -> str:
    """This pod's, else POD_NAMESPACE, else `default`."""
    if NAMESPACE_FILE.exists():
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return os.environ.get("POD_NAMESPACE", "default")


def owner_of(kube: Kube) -> dict[str, Any] | None:
    """What a job should be deleted with: the workflow of this pod, so that a retried pod finds its job; else the pod.

    None outside of a cluster.
    """
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME")
    pod = kube.pod(name) if name else None
    if pod is None:
        return None
    for owner in pod.metadata.owner_references or []:
        if owner.controller:
            return {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    return {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}


def _transient() -> tuple[type[Exception], ...]:
    from urllib3.exceptions import HTTPError

    return (HTTPError, OSError)


def _is_absent(error: Any) -> bool:
    """A missing object answers with a Status; a missing resource with a plain page."""
    try:
        return bool(json.loads(error.body or "").get("reason") == "NotFound")
    except (ValueError, AttributeError):
        return False


def _message(error: Any) -> str:
    try:
        said = str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        said = f"{error.status} {error.reason}"
    return " ".join(said.split())[:300]
