"""What a pod's state means: how a node is doing, and what stops it, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.common.errors import ExitCode
from components.common.launch.manifest import INDEX_LABEL, NODE
from components.common.launch.settings import NodeSettings

IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
REFUSED = (ExitCode.BAD_INPUT, ExitCode.STOPPED, ExitCode.NO_ROOM)  # another try would end alike
OUT_OF_MEMORY = "OOMKilled"


@dataclass(frozen=True)
class Trouble:
    """Why a node does not work.

    Attributes:
        node: its number.
        what: as a sentence without a full stop.
        do: what the reader can do about it.
        code: exit code to end with.
        patience_s: after so long it is final; None: the job may try again by itself.
        pod: whose log says why; empty where it need not be asked.
    """

    node: int
    what: str
    do: str | None
    code: ExitCode
    patience_s: float | None
    pod: str = ""

    @property
    def kind(self) -> tuple[int, ExitCode, float | None]:
        """The same as long as the same is wrong: the words may change meanwhile ("0/12 nodes are available")."""
        return (self.node, self.code, self.patience_s)


def newest(pods: list[Any]) -> dict[int, Any]:
    """Number of a node -> its latest pod (a job starts a failed node anew, and keeps the old pod)."""
    found: dict[int, Any] = {}
    for pod in sorted(pods, key=lambda pod: str(pod.metadata.creation_timestamp)):
        found[int((pod.metadata.labels or {}).get(INDEX_LABEL, 0))] = pod
    return dict(sorted(found.items()))


def trouble(number: int, pod: Any, settings: NodeSettings) -> Trouble | None:
    """What is wrong with node `number`, if anything is."""
    state = _container_state(pod)
    if state is not None and state.terminated is not None:
        return _ended(number, pod.metadata.name, state.terminated, settings)
    if state is not None and state.waiting is not None and state.waiting.reason in (*IMAGE, *CONFIG):
        return _not_started(number, state.waiting, settings)
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            what = f"no machine has room for node {number}, {_short(condition.message or condition.reason)}"
            do = "free some, or ask for less in the stage's meta"
            return Trouble(number, what, do, ExitCode.NO_ROOM, settings.unschedulable_s)
    if pod.status.phase == "Failed":  # evicted, preempted, its machine lost
        what = f"node {number} was taken down, {_short(pod.status.message or pod.status.reason)}"
        return Trouble(number, what, "run it again, it goes on from the last checkpoint", ExitCode.LOST, None)
    return None


def _ended(number: int, pod: str, ended: Any, settings: NodeSettings) -> Trouble | None:
    if ended.reason == OUT_OF_MEMORY:
        what = f"node {number} ran out of memory, its limit is {settings.memory_gib:g} GiB"
        return Trouble(
            number, what, "raise memory_gib in the stage's meta, or lower trainer.workers", ExitCode.NO_ROOM, 0
        )
    if ended.exit_code == 0:
        return None
    known = ended.exit_code in [int(code) for code in ExitCode]
    code = ExitCode(ended.exit_code) if known else ExitCode.LOST if ended.exit_code > 128 else ExitCode.CRASH
    what = f"node {number} ended with exit code {ended.exit_code}"
    return Trouble(number, what, None, code, 0 if code in REFUSED else None, pod)


def _not_started(number: int, waiting: Any, settings: NodeSettings) -> Trouble:
    why = f"{waiting.reason}: {_short(waiting.message)}" if waiting.message else str(waiting.reason)
    if waiting.reason in IMAGE:
        what, do = f"node {number} cannot get its image, {why}", "check the name, and image_pull_secrets"
    else:
        what, do = f"node {number} cannot start, {why}", "check the secret, the config map and the claim by name"
    return Trouble(number, what, do, ExitCode.BAD_INPUT, settings.not_started_s)


def summary(pods: dict[int, Any], nodes: int) -> str:
    """`2 of 4 nodes running, 1 pending`."""
    phases = [str(pod.status.phase).lower() for pod in pods.values()]
    others = sorted({phase for phase in phases if phase != "running"})
    counts = [f"{phases.count(phase)} {phase}" for phase in others]
    return ", ".join([f"{phases.count('running')} of {nodes} nodes running", *counts])


def _container_state(pod: Any) -> Any | None:
    for status in pod.status.container_statuses or []:
        if status.name == NODE:
            return status.state
    return None


def _short(text: str | None) -> str:
    return " ".join(str(text or "no reason given").split())[:200]
