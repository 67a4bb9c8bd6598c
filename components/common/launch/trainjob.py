"""A stage on several nodes: make its TrainJob (or find that of an earlier try), watch it, collect the outputs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.context import LEFT_AFTER_S, cache_root, untouched_s
from components.common.errors import ExitCode, StageError
from components.common.launch import kube, pods, watched
from components.common.launch.handover import Handover
from components.common.launch.log import Log
from components.common.launch.manifest import train_job
from components.common.launch.patience import Patience
from components.common.launch.settings import NodeSettings
from components.common.launch.torchrun import module_of

FOLDER = "launch"  # below the cache: what nodes and launching pod hand each other
GONE_S = 300.0  # longest wait for a deleted job to be gone
SAME_AGAIN_S = 300.0  # the same trouble is told again so often


def run(command: list[str], nodes: int, processes: int, gpus: int, settings: NodeSettings) -> int:
    """Run a stage's command on several nodes, to its outputs in this pod.

    Raises:
        StageError: with one line for whatever stopped it; the exit code is the stage's own where it has one.
    """
    if not settings.cache_pvc:
        raise StageError("several nodes need a cache that all of them see", where="cache_pvc")
    cache = cache_root().absolute()
    stage = module_of(command)[0].rpartition(".")[2]
    run_of = [os.environ.get(name, "") for name in ("LONGTAKE_PIPELINE_RUN", "LONGTAKE_GIT_REVISION")]
    identity = [command, nodes, processes, gpus, settings.model_dump(mode="json"), run_of]
    name = f"{re.sub('[^a-z0-9]+', '-', stage.lower()).strip('-')[:24]}-{hashing.json_hash(identity)[:10]}"
    handover = Handover.of(command, cache / FOLDER / name)
    cluster = kube.connect(settings.api_away_s)
    watching = cache / FOLDER / name / "watched"
    job = train_job(
        name,
        settings,
        nodes=nodes,
        processes=processes,
        gpus=gpus,
        command=handover.command,
        cache=cache,
        watched=watching,
        owner=kube.owner_of(cluster),
    )
    watched.touch(watching)
    TrainJob(cluster, job, settings, handover, watching).finish()
    handover.collect()
    clear(cache / FOLDER)
    return int(ExitCode.OK)


def clear(folder: Path) -> None:
    """Remove what jobs left a week ago and more."""
    for left in folder.iterdir():
        if untouched_s(left) > LEFT_AFTER_S:
            outputs.remove(left)


class TrainJob:
    """One job from its making to its end."""

    def __init__(
        self, cluster: kube.Kube, manifest: dict[str, Any], settings: NodeSettings, handover: Handover, watching: Path
    ) -> None:
        self.cluster, self.manifest, self.settings = cluster, manifest, settings
        self.handover, self.watching = handover, watching
        self.name: str = manifest["metadata"]["name"]
        self.nodes: int = manifest["spec"]["trainer"]["numNodes"]
        self.log = Log(cluster)
        self.patience = Patience(cluster)
        self._runs = False
        self._told: tuple[str, float] = ("", 0.0)

    def finish(self) -> None:
        """Bring the job to its end. On interruption, and on what another try cannot mend, a running one is deleted."""
        began = time.monotonic()
        try:
            self.ensure()
            while not self.look():
                if time.monotonic() - began > self.settings.timeout_h * 3600:
                    raise StageError(
                        f"not done after {self.settings.timeout_h:g} h", where=self.name, do="raise timeout_h in meta"
                    )
                time.sleep(self.settings.poll_s)
        except (KeyboardInterrupt, StageError) as error:
            away = isinstance(error, StageError) and error.code == ExitCode.UNREACHABLE  # the next try goes on with it
            if self._runs and not away:
                self.cluster.delete(self.name)
            raise

    def ensure(self) -> None:
        """Make the job, unless an earlier try of this task made it and it still runs or has left its outputs."""
        found = self.cluster.job(self.name)
        if found is not None and _usable(found, self.handover):
            self._runs = True
            self._say(f"going on with the TrainJob {self.name}")
            return
        if found is not None:
            self.cluster.delete(self.name)
            self._wait_until_gone()
        for place in [*self.handover.places, *self.handover.told]:
            outputs.remove(place)
        self.cluster.create(self.manifest)
        self._runs = True
        self._say(f"TrainJob {self.name} made: {self.nodes} nodes")

    def look(self) -> bool:
        """One look: pass on the log, say what is new; True at a good end, a StageError at a bad one."""
        watched.touch(self.watching)
        job = self.cluster.job(self.name)
        conditions = _conditions(job or {})
        self._runs = job is not None and not {"Complete", "Failed"} & conditions.keys()
        if job is None:
            raise StageError(
                "somebody deleted the job", where=f"TrainJob {self.name}", do="run it again", code=ExitCode.INTERRUPTED
            )
        found = pods.newest(self.cluster.pods(self.name))
        if 0 in found:
            self.log.show(found[0])
        troubles = [t for number, pod in found.items() if (t := pods.trouble(number, pod, self.settings))]
        self.patience.remember(troubles)
        if "Complete" in conditions:
            return True
        if "Failed" in conditions:
            raise self.patience.failure(conditions["Failed"], self.name)
        self.patience.check(troubles)
        waits = "suspended, it waits in a queue" if "Suspended" in conditions else ""
        more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
        self._say_state("; ".join([waits or pods.summary(found, self.nodes), *[t.what + more for t in troubles[:1]]]))
        return False

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + GONE_S
        while self.cluster.job(self.name) is not None:
            if time.monotonic() > deadline:
                raise StageError("an earlier job does not go away", where=f"TrainJob {self.name}", code=ExitCode.BUSY)
            time.sleep(min(self.settings.poll_s, 1.0))

    def _say_state(self, state: str) -> None:
        before, at = self._told
        if state != before or time.monotonic() - at > SAME_AGAIN_S:
            self._say(state)
            self._told = (state, time.monotonic())

    def _say(self, line: str) -> None:
        print(f"[launch] {line}", flush=True)


def _conditions(job: dict[str, Any]) -> dict[str, str]:
    """Type -> message, of the conditions that hold."""
    found = (job.get("status") or {}).get("conditions") or []
    return {c["type"]: str(c.get("message") or c.get("reason") or "") for c in found if c.get("status") == "True"}


def _usable(job: dict[str, Any], handover: Handover) -> bool:
    """Still at work; or done, with its outputs still there. Not one that failed or is being deleted."""
    conditions = _conditions(job)
    if job["metadata"].get("deletionTimestamp") or "Failed" in conditions:
        return False
    return "Complete" not in conditions or handover.made
