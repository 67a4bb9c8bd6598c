"""A Kubernetes API on loopback, as far as a launcher needs it: TrainJobs, pods, logs; and, if asked, a kubelet.

It answers as the real one does (a Status object for a missing object, a plain page for a missing resource) and takes
the manifests strictly. A `script` moves the world on by one step at each look at the job; a kubelet really runs the
nodes' commands as processes of this machine.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs"
PODS = "/api/v1/namespaces/default/pods"
Step = Callable[["KubeApi"], None]


class KubeApi:
    """The server; `url` is its address, `asked` what was asked of it: `GET trainjobs/x`, `POST trainjobs`, ..."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.script: list[Step] = []
        self.refusals: list[tuple[str, int, Any]] = []  # `METHOD resource` prefix, status, body; each used once
        self.installed = True
        self.on_create: Step = lambda api: None
        self._clock = time.time_ns()
        api = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(url.query).items()}
                status, answer = api.answer(self.command, url.path, query, json.loads(body or b"{}"))
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _serve

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def kubeconfig(self, file: Path) -> Path:
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}
        cluster = {"name": "c", "cluster": {"server": self.url}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context]}
        file.write_text(json.dumps({**config, "clusters": [cluster], "users": [{"name": "u", "user": {}}]}))
        return file

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        what = path.removeprefix("/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/")
        asked = f"{method} {what.removeprefix('/api/v1/namespaces/default/')}"
        self.asked.append(asked)
        for refusal in self.refusals:
            if asked.startswith(refusal[0]):
                self.refusals.remove(refusal)
                return refusal[1], refusal[2]
        if path.startswith(JOBS):
            if not self.installed:
                return 404, "404 page not found\n"
            return self._create(body, query) if method == "POST" else self._job(method, path.removeprefix(JOBS + "/"))
        if path == PODS:
            wanted = query.get("labelSelector", "=").split("=")
            items = [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(wanted[0]) == wanted[1]]
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        name, _, part = path.removeprefix(PODS + "/").partition("/")
        if name not in self.pods:
            return missing("pods", name)
        return (200, self._log(name, query)) if part == "log" else (200, self.pods[name])

    def _create(self, job: dict[str, Any], query: dict[str, str]) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        assert query["fieldValidation"] == "Strict"
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63
        if name in self.jobs:
            return 409, status(409, "AlreadyExists", f'trainjobs "{name}" already exists')
        self.jobs[name] = job
        self.on_create(self)
        return 201, job

    def _job(self, method: str, name: str) -> tuple[int, Any]:
        if name not in self.jobs:
            return missing("trainjobs", name)
        if method == "DELETE":
            self.pods = {key: pod for key, pod in self.pods.items() if not key.startswith(name)}
            return 200, self.jobs.pop(name)
        if self.script:
            self.script.pop(0)(self)
        return (200, self.jobs[name]) if name in self.jobs else missing("trainjobs", name)

    def _log(self, pod: str, query: dict[str, str]) -> str:
        assert query["container"] == "node" and query["timestamps"].lower() == "true"
        lines = self.logs.get(pod, [])
        return "".join(f"{line}\n" for line in lines[-int(query.get("tailLines", len(lines))) or len(lines) :])

    # What happens in the cluster.

    @property
    def job(self) -> dict[str, Any]:
        (job,) = self.jobs.values()
        return job

    def condition(self, kind: str, message: str = "") -> None:
        conditions = self.job.setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"type": kind, "status": "True", "message": message})

    def pod(self, node: int, phase: str, *, again: str = "a", **container: Any) -> dict[str, Any]:
        """Put a node's pod in a state; `again` tells a later pod of the same node from the first."""
        job = self.job["metadata"]["name"]
        name = f"{job}-node-0-{node}-{again}"
        labels = {"jobset.sigs.k8s.io/jobset-name": job, "batch.kubernetes.io/job-completion-index": str(node)}
        made = f"2026-01-01T00:00:{ord(again) - ord('a'):02d}Z"
        facts = {"name": "node", "image": "i", "imageID": "", "ready": "running" in container, "restartCount": 0}
        statuses = [{**facts, "state": container}] if container else []
        pod = {
            "metadata": {"name": name, "labels": labels, "creationTimestamp": made},
            "spec": {"containers": [{"name": "node"}]},
            "status": {"phase": phase, "containerStatuses": statuses},
        }
        self.pods[name] = pod
        return pod

    def say(self, node: int, *lines: str, again: str = "a") -> None:
        log = self.logs.setdefault(f"{self.job['metadata']['name']}-node-0-{node}-{again}", [])
        for line in lines:
            self._clock += 1000
            log.append(f"2026-01-01T00:00:00.{self._clock % 10**9:09d}Z {line}")


def missing(resource: str, name: str) -> tuple[int, dict[str, Any]]:
    return 404, status(404, "NotFound", f'{resource} "{name}" not found')


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    facts = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return {**facts, "code": code, "reason": reason, "message": message}


class Kubelet:
    """Runs the nodes of a TrainJob as processes of this machine, with the variables that Kubeflow Trainer sets.

    Args:
        api: where the job is made and its pods are told of.
        references: what config maps and secrets hold.
        restarts: how often a node that failed is started anew, over all nodes, as a Job's `backoffLimit` says.
    """

    def __init__(self, api: KubeApi, references: dict[str, str], restarts: int = 0) -> None:
        self.api, self.references, self.restarts = api, references, restarts
        self.nodes: dict[int, subprocess.Popen[str]] = {}
        self.codes: dict[int, int] = {}
        self._tries, self._lock = 0, threading.Lock()
        api.on_create = self.start

    def start(self, api: KubeApi) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.codes.clear()
        for node in range(api.job["spec"]["trainer"]["numNodes"]):
            self._start(node)

    def _start(self, node: int) -> None:
        trainer = self.api.job["spec"]["trainer"]
        env = {key: value for key, value in os.environ.items() if not key.startswith(("LONGTAKE", "AWS", "MLFLOW"))}
        for entry in trainer["env"]:
            value = entry["value"] if "value" in entry else self.references.get(entry["name"])
            env |= {entry["name"]: value} if value is not None else {}
        env |= {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
        env |= {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(self.port), "PET_NODE_RANK": str(node)}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, *trainer["command"][1:]]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with self._lock:
            self._tries += 1
            again = chr(ord("a") + self._tries)
            self.nodes[node] = process = subprocess.Popen(command, env=env, **pipes)
            self.api.pod(node, "Running", again=again, running={})
        threading.Thread(target=self._follow, args=(node, process, again), daemon=True).start()

    def _follow(self, node: int, process: subprocess.Popen[str], again: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.api.say(node, line.rstrip("\n"), again=again)
        code = process.wait()
        code = 128 - code if code < 0 else code
        ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
        self.api.pod(node, "Failed" if code else "Succeeded", again=again, terminated=ended)
        if code and self.restarts:
            self.restarts -= 1
            time.sleep(1)  # a Job waits ten seconds
            return self._start(node)
        with self._lock:
            self.codes[node] = code
            if len(self.codes) == len(self.nodes):
                self.api.condition("Failed" if any(self.codes.values()) else "Complete", "jobset failed")
        return None

    def stop(self) -> None:
        self.restarts = 0
        for process in self.nodes.values():
            process.kill()
            process.wait()
