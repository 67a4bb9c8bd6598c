"""How long which trouble is borne, and which of several is the cause."""

from __future__ import annotations

import time

from components.common.errors import ExitCode, StageError
from components.common.launch.kube import Kube
from components.common.launch.log import last_lines
from components.common.launch.pods import REFUSED, Trouble


class Patience:
    """Troubles of a job's nodes over time."""

    def __init__(self, cluster: Kube) -> None:
        self._cluster = cluster
        self._since: dict[tuple[int, ExitCode, float | None], float] = {}  # kind of trouble -> first seen
        self._said: dict[str, str] = {}  # pod that ended -> its last line
        self._worst: Trouble | None = None  # of nodes that ended: a failed job may take its pods with it

    def remember(self, troubles: list[Trouble]) -> None:
        """Take note of all that is wrong now."""
        now = time.monotonic()
        self._since = {trouble.kind: self._since.get(trouble.kind, now) for trouble in troubles}
        ended = [trouble for trouble in troubles if not trouble.patience_s]
        for trouble in ended:
            if trouble.pod and trouble.pod not in self._said:
                self._said[trouble.pod] = self._ask(trouble)
        self._worst = min([*ended, *([self._worst] if self._worst else [])], key=_rank, default=None)

    def _ask(self, trouble: Trouble) -> str:
        """What a node said last, by the stages' contract its error in one line; a crash of any but node 0 in full."""
        lines = last_lines(self._cluster, trouble.pod)
        if trouble.node and trouble.code == ExitCode.CRASH:
            print("".join(f"[node {trouble.node}] {line}\n" for line in lines), end="", flush=True)
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def check(self, troubles: list[Trouble]) -> None:
        """StageError for the first trouble that has lasted too long."""
        now = time.monotonic()
        for trouble in sorted(troubles, key=_rank):
            if trouble.patience_s is not None and now - self._since[trouble.kind] >= trouble.patience_s:
                raise self._explained(trouble)

    def failure(self, message: str, job: str) -> StageError:
        """Why the job has failed: what a node said, else what the job says of itself."""
        if self._worst is not None:
            return self._explained(self._worst)
        return StageError(f"the job failed, {message}", where=f"TrainJob {job}", code=ExitCode.CRASH)

    def _explained(self, trouble: Trouble) -> StageError:
        said = self._said.get(trouble.pod, "")
        return StageError(f"{trouble.what}: {said}" if said else trouble.what, do=trouble.do, code=trouble.code)


def _rank(trouble: Trouble) -> int:
    """Causes before consequences: what refuses, then a crash, then those that lost another one."""
    order = [*REFUSED, ExitCode.CRASH, ExitCode.UNREACHABLE, ExitCode.BUSY, ExitCode.LOST, ExitCode.INTERRUPTED]
    return order.index(trouble.code)
