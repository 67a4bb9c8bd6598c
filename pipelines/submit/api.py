"""Kubeflow Pipelines' API (v2beta1), as far as this project uses it, through its generated client.

Answers are handed on as plain JSON: the client's models of 2.17 drop fields that the server sends (the version in
`healthz`, for one), and a newer server's fields must not break an older client.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from pipelines.submit.errors import MissingError, explained

SERVER = "Kubeflow Pipelines"
MINIMUM = (2, 17)
WHY = "2.17 closes SSRF, SQL injection and path traversal holes of the API, and honours a retry window above an hour"
TIMEOUT_S = (10, 60)  # to connect, to answer
PAGE = 100

Json = dict[str, Any]


class Kfp:
    """One server, one namespace, one identity.

    Args:
        host: its address, as people open it in a browser.
        namespace: asked for where the installation has several users.
        token_file: holds a bearer token, read again for each call since tokens are short-lived.
        ca_file: CA bundle for https.
    """

    def __init__(
        self, host: str, namespace: str = "", token_file: Path | None = None, ca_file: Path | None = None
    ) -> None:
        import kfp_server_api as api

        if not re.match(r"https?://[^/\s]+", host):
            raise StageError("the host must be an address such as https://kfp.example.org", where=host)
        self.host, self.namespace = host.rstrip("/"), namespace
        config = api.Configuration(host=self.host)
        config.ssl_ca_cert = str(ca_file) if ca_file else None
        config.retries = False  # no server is said at once; watching has patience of its own
        _authorise(config, token_file)
        self._client = client = api.ApiClient(config)
        self.pipelines, self.uploads = api.PipelineServiceApi(client), api.PipelineUploadServiceApi(client)
        self.run_service, self.experiments = api.RunServiceApi(client), api.ExperimentServiceApi(client)
        self._healthz = api.HealthzServiceApi(client)

    def call(self, doing: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Json:
        """One request by a method of the generated client; the answer as plain JSON.

        Args:
            doing: what it is for, as `list the runs`; part of the message where it fails.
            method: of one of the services above.
            args, kwargs: its arguments.
        """
        with explained(SERVER, self.host, doing):
            answer = method(*args, **kwargs, _preload_content=False, _request_timeout=TIMEOUT_S)
            found = json.loads(answer.data or "{}")
            if not isinstance(found, dict):
                raise ValueError("its answer is no JSON object")
        return found

    def maybe(self, doing: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Json | None:
        """As `call`; None where the server does not have it."""
        try:
            return self.call(doing, method, *args, **kwargs)
        except MissingError:
            return None

    def check_version(self) -> str:
        """The server's version, `unknown` where it was built without one; StageError where it is too old."""
        health = self.call("ask for its version", self._healthz.healthz_service_get_healthz)
        version = str(health.get("tag_name", "unknown"))
        found = re.match(r"v?(\d+)\.(\d+)", version)
        if found and tuple(map(int, found.groups())) < MINIMUM:
            wanted = ".".join(map(str, MINIMUM))
            raise StageError(f"{SERVER} {version} is too old, {wanted} is needed: {WHY}", where=self.host)
        if not health.get("multi_user"):
            self.namespace = ""  # an installation for one user refuses to be asked by namespace
        return version

    def pages(self, doing: str, method: Callable[..., Any], key: str, *args: Any, most: int = 1000) -> list[Json]:
        """The newest entries of a listing, at most `most`."""
        found: list[Json] = []
        token = ""
        while len(found) < most:
            size = min(PAGE, most - len(found))
            where = {"namespace": self.namespace} if key in ("runs", "experiments") and self.namespace else {}
            answer = self.call(
                doing, method, *args, page_size=size, page_token=token, sort_by="created_at desc", **where
            )
            found += answer.get(key) or []
            token = answer.get("next_page_token") or ""
            if not token:
                break
        return found

    def run(self, run_id: str) -> Json:
        """A run with its tasks."""
        return self.call(f"read run {run_id}", self.run_service.run_service_get_run, run_id)

    def version(self, pipeline_id: str, version_id: str) -> Json:
        """A pipeline version with its compiled pipeline."""
        method = self.pipelines.pipeline_service_get_pipeline_version
        return self.call("read the pipeline version", method, pipeline_id, version_id)

    def runs(self, most: int = 20) -> list[Json]:
        """The newest runs."""
        return self.pages("list the runs", self.run_service.run_service_list_runs, "runs", most=most)

    def terminate(self, run_id: str) -> None:
        """Ask the server to stop a run; its pods get SIGTERM and the stages keep what they can resume from."""
        self.call(f"cancel run {run_id}", self.run_service.run_service_terminate_run, run_id)

    def log(self, run_id: str, pod: str) -> str:
        """Log of a pod by way of the API server, which may still have it when the pod is gone."""
        path, place = "/apis/v1alpha1/runs/{run}/nodes/{node}/log", {"run": run_id, "node": pod}
        header = {"Accept": "text/plain"}  # not part of the generated services
        with explained(SERVER, self.host, f"read the log of {pod}"):
            answer = self._client.call_api(
                path, "GET", place, [], header, auth_settings=["Bearer"], _preload_content=False,
                _return_http_data_only=True, _request_timeout=TIMEOUT_S,
            )  # fmt: skip
        return str(answer.data.decode("utf-8", "replace"))

    def run_page(self, run_id: str) -> str:
        """Where people look at a run."""
        return f"{self.host}/#/runs/details/{run_id}"


def _authorise(config: Any, token_file: Path | None) -> None:
    """A bearer token from a file, or from KF_PIPELINES_TOKEN; never from a command line, where `ps` shows it."""
    given = os.environ.get("KF_PIPELINES_TOKEN", "").strip()
    if token_file is None and not given:
        return

    def refresh(config: Any) -> None:
        config.api_key["authorization"] = _token(token_file) if token_file else given

    config.api_key_prefix["authorization"] = "Bearer"
    config.refresh_api_key_hook = refresh
    refresh(config)


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"the token file cannot be read: {error}", where=file) from None
    if not token or not token.isprintable() or " " in token:
        raise StageError("the token file must hold one token and nothing else", where=file)
    return token
