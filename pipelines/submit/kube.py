"""Read-only access to the cluster through the `kubernetes` client."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from pipelines.submit.errors import explained, status_of

SERVER = "Kubernetes"
TIMEOUT_S = (10, 30)  # to connect, to answer
RUN_LABEL = "pipeline/runid"  # on every pod of a run
NODE_NAME = "workflows.argoproj.io/node-name"  # annotation: the path of the node that a pod runs


class Kube:
    """The cluster as one identity sees it, in one namespace."""

    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes import client as api

        self.namespace, self.host = namespace, str(client.configuration.host)
        self.core, self.access = api.CoreV1Api(client), api.AuthorizationV1Api(client)
        self.custom = api.CustomObjectsApi(client)

    def get(self, doing: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One request by a method of the client; StageError where it fails."""
        with explained(SERVER, self.host, doing):
            return method(*args, **kwargs, _request_timeout=TIMEOUT_S)

    def maybe(self, doing: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[int, Any]:
        """(HTTP status, object): 404 and 403 are answers, since to look is what this is for."""
        from kubernetes.client import ApiException

        with explained(SERVER, self.host, doing):
            try:
                return 200, method(*args, **kwargs, _request_timeout=TIMEOUT_S)
            except ApiException as error:
                if status_of(error) in (403, 404):
                    return status_of(error), None
                raise

    def everything(self, doing: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[int, list[Any]]:
        """(HTTP status, objects): all pages of a listing; none where it is forbidden."""
        found: list[Any] = []
        token: str | None = None
        while True:
            status, page = self.maybe(doing, method, *args, limit=500, _continue=token, **kwargs)
            if page is None:
                return status, []
            found += page.items
            token = page.metadata._continue
            if not token:
                return status, found

    def pods(self, run_id: str) -> list[Any]:
        """The pods of a run that are still there."""
        listing = self.core.list_namespaced_pod
        return self.everything("list the run's pods", listing, self.namespace, label_selector=f"{RUN_LABEL}={run_id}")[
            1
        ]

    def log(self, pod: str, lines: int) -> str:
        """The last lines that the stage wrote."""
        read = self.core.read_namespaced_pod_log
        return str(
            self.get(f"read the log of {pod}", read, pod, self.namespace, container="main", tail_lines=lines) or ""
        )


def connect(namespace: str, kubeconfig: Path | None = None, context: str | None = None) -> Kube | None:
    """The cluster of a kubeconfig's context, or the one that this process runs in.

    Args:
        namespace: where the pipeline's pods run.
        kubeconfig: the file; default: KUBECONFIG, then ~/.kube/config.
        context: of the file; default: its current one.

    Returns:
        None where nothing was asked for and none is set up: Kubeflow's own address is enough to submit.

    Raises:
        StageError: the file or the context named does not exist or cannot be read.
    """
    import yaml
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False
    try:
        file = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")  # the client's own look is at its import
        config.load_kube_config(file, context=context, client_configuration=settings, persist_config=False)
        return Kube(client.ApiClient(settings), namespace)
    except (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError) as error:
        if kubeconfig or context:
            where = kubeconfig or f"context {context}"
            raise StageError(f"kubeconfig not usable, {' '.join(str(error).split())}", where=where) from None
    try:
        config.load_incluster_config(client_configuration=settings)
        return Kube(client.ApiClient(settings), namespace)
    except config.ConfigException:
        return None
