"""How far a run is: the server's nodes (drivers, groups, attempts) folded into one line for each task of ours.

The server of 2.17 reports every node of the Argo workflow. A task `x` has a driver node `x-driver`, a group node `x`,
below it `executor`, and with retries below that `executor(0)`, `executor(1)`. A group names its children by node id,
whose last number is also the last number of the pod's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipelines.submit.spec import Task

Json = dict[str, Any]
ENDED = ("succeeded", "failed", "canceled", "skipped")
STATES = {"CANCELED": "canceled", "CANCELING": "canceled", "FAILED": "failed", "SKIPPED": "skipped",
          "SUCCEEDED": "succeeded", "RUNNING": "running", "PENDING": "pending", "PAUSED": "pending"}  # fmt: skip
WORST = ("failed", "canceled", "running", "pending", "waiting", "succeeded", "cached", "skipped")


@dataclass
class TaskState:
    """One task of a run.

    Attributes:
        state: waiting, pending, running, succeeded, cached, skipped, failed or canceled.
        pods: the pods of its attempts, oldest first.
        parts: of a fan-out, (ended, begun); empty else.
        started, finished: seconds since the epoch; 0 where it has not.
    """

    task: Task
    state: str = "waiting"
    pods: list[str] = field(default_factory=list)
    attempts: int = 0
    parts: tuple[int, ...] = ()
    started: float = 0.0
    finished: float = 0.0
    uris: dict[str, str] = field(default_factory=dict)


@dataclass
class RunState:
    """A run and its tasks, in the order in which they can run."""

    run_id: str
    name: str
    state: str
    error: str
    created: float
    finished: float
    tasks: list[TaskState]

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def read_state(run: Json, tasks: list[Task]) -> RunState:
    """Fold the answer of `GET runs/<id>`.

    Args:
        run: the answer.
        tasks: the tasks of its compiled pipeline.
    """
    nodes = _Nodes((run.get("run_details") or {}).get("task_details") or [])
    state = STATES.get(run.get("state", ""), "pending")
    found = [_task_state(task, nodes) for task in tasks]
    if state in ENDED:
        for one in found:
            if one.state in ("waiting", "pending", "running"):  # nothing runs after the end
                one.state = "canceled" if one.started else "skipped"
    return RunState(
        run_id=str(run.get("run_id", "")),
        name=str(run.get("display_name", "")),
        state=state,
        error=str((run.get("error") or {}).get("message", "")),
        created=seconds(run.get("created_at")),
        finished=seconds(run.get("finished_at")),
        tasks=found,
    )


def seconds(stamp: str | None) -> float:
    """`2026-01-31T12:00:00Z` in seconds since the epoch; 0 for none, and for the year 1970 that the server sends."""
    if not stamp:
        return 0.0
    return max(0.0, datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp())


class _Nodes:
    """The server's nodes, found by name and by the number that ends their id."""

    def __init__(self, nodes: list[Json]) -> None:
        self._named: dict[str, list[Json]] = {}
        self._numbered: dict[str, list[Json]] = {}
        for node in sorted(nodes, key=lambda node: (str(node.get("start_time")), str(node.get("display_name")))):
            self._named.setdefault(str(node.get("display_name")), []).append(node)
            self._numbered.setdefault(_number(node), []).append(node)

    def named(self, task: Task, suffix: str = "") -> list[Json]:
        names = dict.fromkeys((task.key, task.label))
        return [node for name in names for node in self._named.get(f"{name}{suffix}", [])]

    def attempts(self, group: Json) -> list[Json]:
        """The nodes below a group that stand for a pod, oldest first.

        The name is asked for: in Argo, the "children" of a pod are also the tasks that come after it.
        """
        found: list[Json] = []
        for child in group.get("child_tasks") or []:
            for node in self._numbered.get(_number(child), []):
                if str(node.get("display_name", "")).startswith("executor") and _number(node):
                    found += self.attempts(node) or [node]
        return sorted(found, key=lambda node: (str(node.get("start_time")), str(node.get("display_name"))))


def _task_state(task: Task, nodes: _Nodes) -> TaskState:
    """Its node, or one node for each part of a fan-out."""
    groups, drivers = nodes.named(task), nodes.named(task, "-driver")
    state, failed = _driver_state(drivers)
    if not groups or failed:
        return TaskState(task, state, pods=failed)
    parts = [_part_state(task, group, nodes.attempts(group)) for group in groups]
    worst = min(parts, key=lambda part: WORST.index(part.state))
    if not task.looped:
        return worst
    ended = sum(part.state in (*ENDED, "cached") for part in parts)
    return TaskState(
        task,
        worst.state,
        pods=[pod for part in sorted(parts, key=lambda p: p.state != "failed") for pod in part.pods],
        attempts=max(part.attempts for part in parts),
        parts=(ended, max(len(parts), len(drivers))),
        started=min((part.started for part in parts if part.started), default=0.0),
        finished=max(part.finished for part in parts) if ended == len(parts) else 0.0,
    )


def _driver_state(drivers: list[Json]) -> tuple[str, list[str]]:
    """The state of a task of which only drivers are there, and the pods of those that failed."""
    states = [STATES.get(node.get("state", ""), "waiting") for node in drivers]
    failed = [str(node.get("pod_name", "")) for node, state in zip(drivers, states, strict=True) if state == "failed"]
    return "failed" if failed else "pending" if states else "waiting", failed


def _part_state(task: Task, group: Json, attempts: list[Json]) -> TaskState:
    state = STATES.get(group.get("state", ""), "waiting")
    if state == "succeeded" and attempts and all(node.get("state") == "SKIPPED" for node in attempts):
        state = "cached"
    if state == "running" and attempts and attempts[-1].get("state") == "PENDING":
        state = "pending"
    ran = [node for node in attempts if node.get("state") != "SKIPPED"]
    return TaskState(
        task,
        state,
        pods=[str(node["pod_name"]) for node in ran if node.get("pod_name")],
        attempts=len(ran),
        started=seconds((ran or [group])[0].get("start_time")),
        finished=seconds(group.get("end_time")) if state in (*ENDED, "cached") else 0.0,
        uris=_uris(group),
    )


def _number(node: Json) -> str:
    """The last number of a pod's name or node's id, a hash of the node's path; empty where there is none."""
    last = str(node.get("pod_name", "")).rpartition("-")[2]
    return last if last.isdigit() else ""


def _uris(node: Json) -> dict[str, str]:
    """Addresses of its artifacts where the server tells them (it does after 2.17; ids only in 2.17)."""
    outputs = (node.get("outputs") or {}).get("artifacts")
    if not isinstance(outputs, list):
        return {}
    named = {
        str(entry.get("artifact_key") or entry.get("io_key", "")): entry.get("artifacts") or [] for entry in outputs
    }
    return {name: str(entries[0]["uri"]) for name, entries in named.items() if entries and entries[0].get("uri")}
