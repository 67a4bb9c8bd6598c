"""Follow a run to its end, and say why a task waits or has failed."""

from __future__ import annotations

import re
import time
from typing import Any

from components.common.errors import ExitCode, StageError
from pipelines.submit import spec, trouble
from pipelines.submit.api import Kfp
from pipelines.submit.kube import NODE_NAME, Kube
from pipelines.submit.screen import Screen, duration, summary
from pipelines.submit.state import RunState, TaskState, read_state

EVERY_S = 5.0  # between two looks; the server itself learns of a change within a few seconds
PATIENCE_S = 600.0  # how long a server may be away while its run goes on
LOG_LINES = 50
SHOWN_FAILURES = 3  # logs of so many; the others are named

OUTCOMES = {"succeeded": ExitCode.OK, "canceled": ExitCode.INTERRUPTED}


class Watch:
    """One run and what is needed to look at it.

    Args:
        api: Kubeflow's server.
        kube: the cluster; None where there is no access: then reasons are not known, and logs come from `api`.
        run_id: the run.
        every_s: seconds between two looks.
        patience_s: seconds for which a silent server is waited for.
    """

    def __init__(
        self, api: Kfp, kube: Kube | None, run_id: str, every_s: float = EVERY_S, patience_s: float = PATIENCE_S
    ) -> None:
        self.api, self.kube, self.run_id = api, kube, run_id
        self.every_s, self.patience_s = every_s, patience_s
        self.tasks = spec.tasks(documents_of(api, api.run(run_id)))

    def look(self) -> RunState:
        return read_state(self.api.run(self.run_id), self.tasks)

    def follow(self, screen: Screen) -> RunState:
        """Show the run until it ends; what a server says while it is away is said once."""
        silent_since: float | None = None
        while True:
            try:
                run = self.look()
                silent_since = None
                screen.show(run, self.notes(run), time.time())
                if run.ended:
                    return run
            except StageError as error:
                if error.code != ExitCode.UNREACHABLE:
                    raise
                if silent_since is None:
                    silent_since = time.monotonic()
                    screen.say(f"{error.what}; the run goes on without us, trying again")
                elif time.monotonic() - silent_since > self.patience_s:
                    raise
            time.sleep(self.every_s)

    def notes(self, run: RunState) -> dict[str, str]:
        """Task key -> why it does not start, of those that should."""
        pending = [one for one in run.tasks if one.state in ("pending", "running")]
        if self.kube is None or not pending or run.ended:
            return {}
        try:
            pods = self.kube.pods(self.run_id)
        except StageError:
            return {}  # watching goes on without reasons
        keys = {one.task.key for one in pending}
        found = {key: trouble.waiting_reason(pod) for pod in pods if (key := task_of(pod)) in keys}
        return {key: note for key, note in found.items() if note}

    def failures(self, run: RunState) -> list[str]:
        """Lines on each failed task: why, and the end of its log."""
        failed = [one for one in run.tasks if one.state == "failed"]
        pods = self._pods()
        lines: list[str] = []
        for one in failed[:SHOWN_FAILURES]:
            lines += ["", f"{one.task.label} failed{self._reason(one, pods)}"]
            lines += [f"  | {line}" for line in self.log(one, LOG_LINES)]
        if len(failed) > SHOWN_FAILURES:
            lines += ["", "also failed: " + ", ".join(one.task.label for one in failed[SHOWN_FAILURES:])]
        return lines

    def log(self, one: TaskState, lines: int) -> list[str]:
        """The last lines of a task's last attempt, from the cluster or from the server's archive."""
        if not one.pods:
            return ["(no pod has run)"]
        pod = one.pods[-1] if not one.parts else one.pods[0]  # of a fan-out: one that failed
        for read in (self._from_cluster, self._from_server):
            try:
                if text := read(pod, lines).strip("\n"):
                    return [_printable(line) for line in text.splitlines()[-lines:]]
            except StageError:
                continue
        return [f"(the log of {pod} is gone: the pod was removed and the server keeps no archive)"]

    def _from_cluster(self, pod: str, lines: int) -> str:
        return self.kube.log(pod, lines) if self.kube else ""

    def _from_server(self, pod: str, lines: int) -> str:
        return self.api.log(self.run_id, pod)

    def _pods(self) -> list[Any]:
        try:
            return self.kube.pods(self.run_id) if self.kube else []
        except StageError:
            return []

    def _reason(self, one: TaskState, pods: list[Any]) -> str:
        mine = [pod for pod in pods if pod.metadata.name in one.pods or task_of(pod) == one.task.key]
        mine.sort(key=lambda pod: str(pod.metadata.creation_timestamp))
        reasons = [reason for pod in mine if pod.status.phase != "Succeeded" and (reason := trouble.end_reason(pod))]
        times = f" after {one.attempts} attempts" if one.attempts > 1 and not one.parts else ""
        return times + (f": {reasons[-1]}" if reasons else "")


def ending(run: RunState) -> str:
    """The last line of a watch."""
    took = duration(run.finished - run.created) if run.finished and run.created else ""
    why = f" ({run.error})" if run.error and run.state == "failed" else ""
    return f"{run.state}{f' after {took}' if took else ''}: {summary(run)}{why}"


def outcome(run: RunState) -> ExitCode:
    """Exit code of a watch: 0 succeeded, 130 cancelled, 1 failed."""
    return OUTCOMES.get(run.state, ExitCode.CRASH)


def _printable(line: str) -> str:
    """A log is shown, not obeyed: what moves the cursor or renames the window is left out."""
    return "".join(
        letter for letter in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) if letter.isprintable() or letter == "\t"
    )


def task_of(pod: Any) -> str:
    """Key of the task that a pod works for (its driver included); empty for pods of the groups."""
    path = (pod.metadata.annotations or {}).get(NODE_NAME, "")
    found = re.search(r"\.([^.()]+)(?:\.executor|-driver)(?:\(\d+\))?$", path)
    return found.group(1) if found else ""


def documents_of(api: Kfp, run: dict[str, Any]) -> list[dict[str, Any]]:
    """The compiled pipeline of a run: its own, or that of the version it was made from."""
    documents = spec.as_documents(run.get("pipeline_spec") or {})
    reference = run.get("pipeline_version_reference") or {}
    if not documents and reference.get("pipeline_version_id"):
        version = api.version(reference["pipeline_id"], reference["pipeline_version_id"])
        documents = spec.as_documents(version.get("pipeline_spec") or {})
    if not documents:
        raise StageError("the server has no pipeline for this run any more", where=str(run.get("run_id")))
    return documents
