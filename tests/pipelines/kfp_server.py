"""Kubeflow Pipelines' API (v2beta1 over REST) written by hand: enough of a server to submit to and to watch.

Names, shapes and the flat list of Argo nodes in `task_details` follow the server of 2.17: a task `x` has the nodes
`x-driver`, `x`, `executor` and one `executor(n)` for each attempt; a node names its children by node id.
"""

from __future__ import annotations

import itertools
import uuid
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import yaml

from pipelines.submit import spec
from tests.pipelines.http_server import JsonServer, Refusal, Request

Json = dict[str, Any]
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)
START, END = BEGAN.isoformat().replace("+00:00", "Z"), (BEGAN + timedelta(minutes=1)).isoformat()


def missing(what: str) -> Refusal:
    return Refusal(404, {"error": "NotFoundError", "code": 5, "message": f"{what} not found"})


class KfpServer(JsonServer):
    """Pipelines, versions, experiments and runs in memory.

    A run advances by one frame each time it is read: a frame is {task key: state}, `PENDING`, `RUNNING`, `SUCCEEDED`,
    `FAILED`, `CACHED`, `DRIVER FAILED`, or a list of the states of its attempts. After the last frame it has ended.
    """

    def __init__(self, tag_name: str = "2.17.3", multi_user: bool = False) -> None:
        super().__init__()
        self.tag_name, self.multi_user = tag_name, multi_user
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.experiments: dict[str, Json] = {}
        self.all_runs: dict[str, Json] = {}
        self.frames: list[Mapping[str, Any]] = []
        self.final = "SUCCEEDED"
        self.logs: dict[str, str] = {}  # pod -> what the archive holds
        self._numbers = itertools.count(1)
        base = "/apis/v2beta1"
        for method, path, handler in (
            ("GET", "/healthz", self._health),
            ("GET", "/pipelines/names/([^/]+)", self._pipeline_by_name),
            ("POST", "/pipelines", self._create_pipeline),
            ("POST", "/pipelines/upload_version", self._upload),
            ("GET", "/pipelines/([^/]+)/versions", self._versions),
            ("GET", "/pipelines/([^/]+)/versions/([^/]+)", self._version),
            ("GET", "/experiments", self._experiments),
            ("POST", "/experiments", self._create_experiment),
            ("GET", "/runs", self._runs),
            ("POST", "/runs", self._create_run),
            ("GET", "/runs/([^/:]+)", self._run),
            ("POST", "/runs/([^/:]+):terminate", self._terminate),
        ):
            self.route(method, base + path, handler)
        self.route("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", self._log)

    def _health(self, request: Request) -> Json:
        return {"commit_sha": "0" * 40, "tag_name": self.tag_name, "multi_user": self.multi_user,
                "pipeline_store": "database"}  # fmt: skip

    def _new(self, kind: dict[str, Json], key: str, entry: Json) -> Json:
        made = {key: str(uuid.UUID(int=next(self._numbers))), "created_at": START, **entry}
        kind[made[key]] = made
        return made

    def _pipeline_by_name(self, request: Request, name: str) -> Json:
        found = [p for p in self.pipelines.values() if p["name"] == name]
        if not found:
            raise missing(f"Pipeline {name}")
        return found[0]

    def _create_pipeline(self, request: Request) -> Json:
        return self._new(self.pipelines, "pipeline_id", request.json)

    def _upload(self, request: Request) -> Json:
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        part = message_from_bytes(head + request.body).get_payload()[0]
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        if request.query["pipelineid"] not in self.pipelines:
            raise missing("Pipeline")
        name = request.query["name"]
        if any(v["name"] == name and v["pipeline_id"] == request.query["pipelineid"] for v in self.versions.values()):
            raise Refusal(409, {"error": "AlreadyExist", "code": 6, "message": f"version {name} already exists"})
        both = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False))
        entry = {"name": name, "display_name": name, "pipeline_id": request.query["pipelineid"]}
        content = both if len(documents) > 1 else documents[0]
        return self._new(self.versions, "pipeline_version_id", {**entry, "pipeline_spec": content})

    def _page(self, key: str, entries: Iterable[Json], request: Request) -> Json:
        entries, first = list(entries)[::-1], int(request.query.get("page_token") or 0)
        after = first + int(request.query.get("page_size") or 10)
        more = {"next_page_token": str(after)} if after < len(entries) else {}
        return {key: entries[first:after], "total_size": len(entries), **more} if entries else {}

    def _versions(self, request: Request, pipeline: str) -> Json:
        mine = [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
        return self._page("pipeline_versions", mine, request)

    def _version(self, request: Request, pipeline: str, version: str) -> Json:
        if version not in self.versions:
            raise missing("PipelineVersion")
        return self.versions[version]

    def _experiments(self, request: Request) -> Json:
        return self._page("experiments", self.experiments.values(), request)

    def _create_experiment(self, request: Request) -> Json:
        return self._new(self.experiments, "experiment_id", request.json)

    def _create_run(self, request: Request) -> Json:
        body = request.json
        version = self.versions[body["pipeline_version_reference"]["pipeline_version_id"]]
        known = spec.inputs(spec.as_documents(version["pipeline_spec"]))
        unknown = set((body.get("runtime_config") or {}).get("parameters") or {}) - set(known)
        if unknown:
            raise Refusal(400, {"code": 3, "message": f"parameter {unknown.pop()} is not an input"})
        frames = [*self.frames, {**(self.frames[-1] if self.frames else {})}]
        return self._new(self.all_runs, "run_id", {**body, "state": "PENDING", "frames": frames})

    def add_run(self, documents: list[Json], **more: Any) -> str:
        """A run that was there before, without a version."""
        both = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False))
        entry = {"display_name": "old", "state": "PENDING", "pipeline_spec": both, "frames": list(self.frames), **more}
        return str(self._new(self.all_runs, "run_id", entry)["run_id"])

    def _runs(self, request: Request) -> Json:
        plain = [{k: v for k, v in run.items() if k != "frames"} for run in self.all_runs.values()]
        return self._page("runs", plain, request)

    def _run(self, request: Request, run_id: str) -> Json:
        if run_id not in self.all_runs:
            raise missing(f"Run {run_id}")
        run = self.all_runs[run_id]
        if run["frames"]:
            frame = run["frames"].pop(0)
            run["run_details"] = {"task_details": nodes(run_id, frame)}
            if run["state"] not in ("CANCELING", "CANCELED"):
                run["state"] = "RUNNING" if run["frames"] else self.final
        if run["state"] == "CANCELING" and not run["frames"]:
            run["state"] = "CANCELED"
        if run["state"] in ("SUCCEEDED", "FAILED", "CANCELED"):
            run["finished_at"] = END
        return {key: value for key, value in run.items() if key != "frames"}

    def _terminate(self, request: Request, run_id: str) -> Json:
        if run_id not in self.all_runs:
            raise missing(f"Run {run_id}")
        self.all_runs[run_id].update(state="CANCELING", frames=[])
        return {}

    def _log(self, request: Request, run_id: str, pod: str) -> str:
        if pod not in self.logs:
            raise Refusal(500, {"error_message": f"no log of {pod}"})
        return self.logs[pod]


def pod_name(run_id: str, task: str, attempt: int = 0, part: int | None = None) -> str:
    """The pod of an attempt: workflow, template, and the hash of the node's path."""
    return f"longtake-{run_id[-4:]}-system-container-impl-{_hash(run_id, task, part, f'executor({attempt})')}"


def nodes(run_id: str, frame: Mapping[str, Any]) -> list[Json]:
    """The Argo nodes of a frame, as the server lists them."""
    found = [_node(run_id, "root-driver", "SUCCEEDED", ("root-driver",)), _node(run_id, "root", "RUNNING", ("root",))]
    for task, state in frame.items():
        parts = state if isinstance(state, tuple) else (state,)
        for part, of_part in enumerate(parts):
            found += _task_nodes(run_id, task, of_part, part if isinstance(state, tuple) else None)
    return found


def _task_nodes(run_id: str, task: str, state: Any, part: int | None) -> list[Json]:
    if state == "DRIVER FAILED":
        return [_node(run_id, f"{task}-driver", "FAILED", (task, part, "driver")), _node(run_id, task, "", (task, "g"))]
    attempts = state if isinstance(state, list) else ["SKIPPED" if state == "CACHED" else state]
    last = "SUCCEEDED" if attempts[-1] == "SKIPPED" else attempts[-1]
    whole = "RUNNING" if last == "PENDING" else last
    at = (task, part)
    driver = _node(run_id, f"{task}-driver", "SUCCEEDED", (*at, "driver"), [(*at, "group")])
    group = _node(run_id, task, whole, (*at, "group"), [(*at, "executor")])
    below = [(*at, f"executor({n})") for n in range(len(attempts))]
    executor = _node(run_id, "executor", attempts[-1] if state == "CACHED" else whole, (*at, "executor"), below)
    # a pod's children in Argo are the tasks after it
    after = [("after", task, "driver")]
    pods = [
        {**_node(run_id, f"executor({n})", s, (*at, f"executor({n})"), after),
         "pod_name": pod_name(run_id, task, n, part)} for n, s in enumerate(attempts)
    ]  # fmt: skip
    return [driver, group, executor, *([] if state == "CACHED" else pods)]


def _hash(run_id: str, *path: Any) -> int:
    return zlib.crc32(repr((run_id, *path)).encode())


def _node(run_id: str, name: str, state: str, path: tuple[Any, ...], children: Iterable[tuple[Any, ...]] = ()) -> Json:
    ended = {"end_time": END} if state in ("SUCCEEDED", "FAILED") else {}
    below = [{"pod_name": f"longtake-{run_id[-4:]}-{_hash(run_id, *child)}"} for child in children]
    return {"run_id": run_id, "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, repr((run_id, path)))),
            "display_name": name, "state": state, "create_time": START, "start_time": START, **ended,
            "pod_name": f"longtake-{run_id[-4:]}-{_hash(run_id, *path)}", "child_tasks": below}  # fmt: skip
