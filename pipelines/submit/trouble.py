"""Why a pod does not start, or has ended badly, in one line; from what Kubernetes knows of it."""

from __future__ import annotations

import re
from typing import Any

from components.common.errors import ExitCode

KILLED, TERMINATED = 137, 143  # 128 + SIGKILL, SIGTERM
EXITS = {
    int(ExitCode.CRASH): "a defect of the stage, its traceback is in the log",
    int(ExitCode.BAD_INPUT): "wrong input or parameters, the last line of the log says which",
    int(ExitCode.STOPPED): "training stopped itself (NaN or collapse), the last line of the log says why",
    int(ExitCode.NO_ROOM): "no room or no permission on the machine, the last line of the log says where",
    int(ExitCode.LOST): "a process of it was lost; a retry goes on from where it was",
    int(ExitCode.BUSY): "another process holds what it needs; a retry may go well",
    int(ExitCode.UNREACHABLE): "a store or server did not answer; a retry goes on from where it was",
    int(ExitCode.INTERRUPTED): "interrupted; a retry goes on from where it was",
    TERMINATED: "terminated by the cluster (node drained, cancelled, timeout); a retry goes on from where it was",
}
PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
SAID_CHARS = 240  # of the cluster's own words


def waiting_reason(pod: Any) -> str:
    """Why a pod does not run yet; empty where nothing is wrong.

    Args:
        pod: a V1Pod.
    """
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False" and condition.reason == "Unschedulable":
            return f"no node takes it: {_short(condition.message)}"
    for status in _containers(pod):
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason in PULL:
            return f"image {status.image} cannot be pulled: {_short(waiting.message or waiting.reason)}"
        if waiting and waiting.reason in CREATE:
            return f"container cannot be created: {_short(waiting.message or waiting.reason)}"
    return ""


def end_reason(pod: Any) -> str:
    """Why a pod has failed; empty where Kubernetes knows nothing.

    Args:
        pod: a V1Pod.
    """
    if pod.status.reason == "Evicted":
        return f"evicted from its node: {_short(pod.status.message)}"
    if pod.status.reason == "DeadlineExceeded":
        return "ran longer than its timeout (timeout_h in the stage's meta)"
    for status in _containers(pod):
        ended = status.state.terminated if status.state else None
        if ended and status.name == "main" and ended.exit_code:
            return _exit_reason(ended, pod)
    return waiting_reason(pod) or _short(pod.status.message)


def _exit_reason(ended: Any, pod: Any) -> str:
    if ended.reason == "OOMKilled":
        limit = _memory_limit(pod)
        return f"out of memory{limit} (raise memory_gib in the stage's meta, or use a smaller batch or fewer workers)"
    if ended.exit_code == KILLED:
        return "killed (exit 137): out of memory, or removed by the cluster"
    words = EXITS.get(ended.exit_code, "not one of the pipeline's own exit codes")
    return f"exit {ended.exit_code}: {words}"


def _memory_limit(pod: Any) -> str:
    for container in pod.spec.containers if pod.spec else []:
        limits = container.resources.limits if container.resources else None
        if container.name == "main" and limits and limits.get("memory"):
            return f", its limit is {limits['memory']}"
    return ""


def _containers(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def _short(message: str | None) -> str:
    """One line without the advice on preemption that schedulers append."""
    text = " ".join((message or "").split())
    text = re.sub(r"\s*preemption: .*$", "", text)
    return text[:SAID_CHARS].rstrip(". ")
