"""The Kubernetes API that a submission looks at, written by hand: plain JSON, read-only, for the real client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.pipelines.http_server import JsonServer, Refusal, Request

Json = dict[str, Any]
KINDS = {
    "serviceaccounts": "ServiceAccount",
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "resourcequotas": "ResourceQuota",
    "pods": "Pod",
}


class KubeServer(JsonServer):
    """Holds `objects[(namespace, resource)][name]`, nodes, and what may not be done (`denied`: 'list nodes')."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()
        self.objects: dict[tuple[str, str], dict[str, Json]] = {}
        self.nodes: list[Json] = []
        self.logs: dict[str, str] = {}
        self.denied: set[str] = set()
        self.groups = {"trainer.kubeflow.org/v1alpha1"}
        self.route("GET", "/api/v1/namespaces/([^/]+)", self._namespace)
        self.route("GET", "/api/v1/nodes", lambda request: self._list("nodes", self.nodes, request))
        self.route("GET", "/api/v1/pods", lambda request: self._list("pods", self._all_pods(), request))
        self.route("GET", "/api/v1/namespaces/([^/]+)/pods/([^/]+)/log", self._log)
        self.route("GET", "/api/v1/namespaces/([^/]+)/([a-z]+)", self._listing)
        self.route("GET", "/api/v1/namespaces/([^/]+)/([a-z]+)/([^/]+)", self._get)
        self.route("GET", "/apis/([^/]+/[^/]+)", self._group)
        for kind in ("selfsubjectaccessreviews", "subjectaccessreviews"):
            self.route("POST", f"/apis/authorization.k8s.io/v1/{kind}", self._review)

    def add(self, resource: str, name: str, namespace: str = "longtake", **content: Any) -> None:
        meta = {"name": name, "namespace": namespace, **content.pop("metadata", {})}
        entry = {"apiVersion": "v1", "kind": KINDS[resource], "metadata": meta, **content}
        self.objects.setdefault((namespace, resource), {})[name] = entry

    def add_node(self, name: str, taints: list[Json] | None = None, ready: bool = True, **more: Any) -> None:
        offers = {"cpu": "32", "memory": "128Gi", **more.pop("offers", {})}
        status = {"allocatable": offers, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        meta = {"name": name, "labels": more.pop("labels", {})}
        self.nodes.append({"metadata": meta, "spec": {"taints": taints or [], **more}, "status": status})

    def kubeconfig(self, folder: Path) -> Path:
        file = folder / "kubeconfig"
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        user = {"name": "test", "user": {"token": self.token or "any"}}
        clusters = [{"name": "test", "cluster": {"server": self.url}}]
        file.write_text(
            yaml.safe_dump(
                {"apiVersion": "v1", "kind": "Config", "current-context": "test", "clusters": clusters,
                 "contexts": [context], "users": [user]}
            )
        )  # fmt: skip
        return file

    def _may(self, what: str) -> None:
        if what in self.denied:
            body = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}
            raise Refusal(403, {**body, "message": f'User "me" cannot {what}'})

    def _namespace(self, request: Request, name: str) -> Json:
        self._may("get namespaces")
        if name not in self.namespaces:
            raise self._missing("namespaces", name)
        return {"metadata": {"name": name}}

    def _group(self, request: Request, name: str) -> Json:
        if name not in self.groups:
            raise Refusal(404, "404 page not found")
        return {"kind": "APIResourceList", "groupVersion": name, "resources": []}

    def _get(self, request: Request, namespace: str, resource: str, name: str) -> Json:
        self._may(f"get {resource}")
        found = self.objects.get((namespace, resource), {}).get(name)
        if found is None:
            raise self._missing(resource, name)
        return found

    def _missing(self, resource: str, name: str) -> Refusal:
        return Refusal(404, {"kind": "Status", "code": 404, "message": f'{resource} "{name}" not found'})

    def _listing(self, request: Request, namespace: str, resource: str) -> Json:
        entries = list(self.objects.get((namespace, resource), {}).values())
        wanted = dict(pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair)
        fits = [e for e in entries if wanted.items() <= (e["metadata"].get("labels") or {}).items()]
        return self._list(resource, fits, request)

    def _list(self, resource: str, entries: list[Json], request: Request) -> Json:
        self._may(f"list {resource}")
        first = int(request.query.get("continue") or 0)
        after = min(len(entries), first + min(int(request.query.get("limit") or 500), 2))  # small pages, to be followed
        token = {"continue": str(after)} if after < len(entries) else {}
        return {"kind": "List", "apiVersion": "v1", "metadata": token, "items": entries[first:after]}

    def _all_pods(self) -> list[Json]:
        return [pod for (_, resource), pods in self.objects.items() if resource == "pods" for pod in pods.values()]

    def _log(self, request: Request, namespace: str, pod: str) -> str:
        self._may("get pods/log")
        if pod not in self.logs:
            raise self._missing("pods", pod)
        lines = self.logs[pod].splitlines(keepends=True)
        return "".join(lines[-int(request.query.get("tailLines", len(lines))) :])

    def _review(self, request: Request) -> Json:
        asked = request.json["spec"]["resourceAttributes"]
        what = "/".join(filter(None, [asked["resource"], asked.get("subresource")]))
        return {"spec": request.json["spec"], "status": {"allowed": f"{asked['verb']} {what}" not in self.denied}}


def pod(
    name: str, task: str, run_id: str, phase: str = "Pending", node: str | None = None, **status: Any
) -> dict[str, Any]:
    """A pod of a run as Argo makes it, for `KubeServer.add("pods", **pod(...))`."""
    meta = {
        "labels": {"pipeline/runid": run_id},
        "annotations": {"workflows.argoproj.io/node-name": f"longtake-x.root.pipeline.{task}.executor(0)"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    spec = {"containers": [{"name": "main", "image": "longtake/train:dev",
                            "resources": {"limits": {"memory": "64Gi"}}}], "nodeName": node}  # fmt: skip
    return {"name": name, "metadata": meta, "spec": spec, "status": {"phase": phase, **status}}


def ready_cluster() -> KubeServer:
    """A cluster on which the chart was installed, with one node for cores and one for a GPU."""
    server = KubeServer()
    server.namespaces.add("longtake")
    server.add("serviceaccounts", "longtake-pipeline")
    keys = (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_S3_ENDPOINT_URL",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
        "LONGTAKE_BUCKET",
    )
    server.add("configmaps", "longtake-env", data=dict.fromkeys(keys, "x"))
    server.add("secrets", "longtake-s3", data=dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "eA=="))
    claim = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    server.add("persistentvolumeclaims", "longtake-cache", **claim)
    server.add_node("cores")
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule", "value": "present"}
    server.add_node("gpu", taints=[taint], offers={"nvidia.com/gpu": "1"})
    return server
