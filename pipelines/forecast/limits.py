"""Where a run would not fit, and what takes over there."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.dag import Node
from pipelines.forecast.plan import Run
from pipelines.forecast.schedule import Slots, Task, work_seconds
from pipelines.forecast.work import Work

GIB = 2**30
HOUR_S = 3600.0
COPY_SHARE = 0.25  # of a task's time: above, copies are worth a line
TAKES_OVER = {
    ("extract_frames", "memory"): "raise extract_frames.<corpus>.parts: each part holds its own videos alone",
    ("extract_frames", "time"): "raise extract_frames.<corpus>.parts, or mode: keyframes where pairs are not needed",
    ("index", "memory"): "several corpora, each with its own index, or anchor_every_s and max_anchors",
    ("index", "time"): "several corpora side by side, a larger fingerprint.every_s",
    ("pretrain", "memory"): "fewer rows (index.max_anchors), fewer workers, or more memory_gib",
    ("pretrain", "time"): "more devices (meta.gpus, meta.nodes); a killed pod goes on from its checkpoint",
    ("pretrain", "shm"): "fewer workers, a smaller batch for each device, or more shm_gib",
    (
        "pretrain",
        "copy",
    ): "frames as s3://..., read by range (LONGTAKE_S3: a cache of their size, or small blocks)",
    ("evaluate", "time"): "more devices, or fewer pictures",
    ("download", "time"): "several datasets side by side",
    ("download", "copy"): "keep the videos where they are and fetch them in parts",
    ("extract_frames", "copy"): "raise extract_frames.<corpus>.parts: parts copy side by side",
    ("index", "copy"): "read the frames by range: the index needs the tables and one frame a second",
    ("compare", "copy"): "read the frames by range: the report needs store.json alone",
}


@dataclass(frozen=True)
class Limit:
    """A limit that the forecast exceeds.

    Attributes:
        node: whose; `what`: memory, shm, time, copy, data or draw.
        line: one sentence for people.
        takes_over: what to do instead.
    """

    node: str
    what: str
    line: str
    takes_over: str


def limits(run: Run, tasks: list[Task], slots: Slots) -> list[Limit]:
    """Everything that will not fit into the `meta` of dvc.yaml, or is wasteful."""
    longest = {task.node: task for task in sorted(tasks, key=lambda t: t.seconds)}
    found: list[Limit] = []
    for node in run.dag.nodes:
        work = run.work[node.name]
        found += _memory(node, work)
        found += _time(node, longest[node.name], slots)
        found += _starved(node, work, run, slots)
    for corpus, index in run.index.items():
        do = "extract at a higher rate, or ask for times that are multiples of the frame spacing"
        found += [Limit(f"index@{corpus}", "draw", f"the draw '{name}' would be empty", do) for name in index.empty]
    return found


def _memory(node: Node, work: Work) -> list[Limit]:
    pods = work.pods
    sizes = {
        "memory": (work.memory_bytes / GIB, node.needs.memory_gib),
        "shm": (work.shm_bytes / GIB, node.needs.shm_gib),
    }
    each = " a pod" if pods > 1 else ""
    return [
        _limit(node, what, f"needs {need:.3g} GiB of {what}{each}, meta gives {given:g}")
        for what, (need, given) in sizes.items()
        if need > given
    ]


def _time(node: Node, task: Task, slots: Slots) -> list[Limit]:
    if not slots.cluster:
        return []  # `dvc repro` has no time limit and copies nothing
    found = []
    if task.seconds > node.needs.timeout_h * HOUR_S:
        line = f"takes {task.seconds / HOUR_S:.3g} h, meta allows {node.needs.timeout_h:g}"
        found.append(_limit(node, "time", line))
    if task.copy_s > COPY_SHARE * task.seconds and task.copy_s > HOUR_S:
        line = f"spends {task.copy_s / HOUR_S:.3g} of {task.seconds / HOUR_S:.3g} h on copying artifacts"
        found.append(_limit(node, "copy", line))
    return found


def _starved(node: Node, work: Work, run: Run, slots: Slots) -> list[Limit]:
    """A device that waits for its loader."""
    gpus = node.needs.gpus * node.needs.nodes
    if node.stage != "pretrain" or not slots.device or not gpus or not work.flops:
        return []
    cpus = min(node.needs.cpu, slots.cpus) if slots.cluster else slots.cpus
    alone = Work(flops=work.flops, compiled=work.compiled)
    on_device = work_seconds(alone, cpus, gpus, slots.device, run.rates)
    loading = work.core_s / max(1.0, min(cpus, work.width))
    if loading <= on_device:
        return []
    wanted = work.core_s / on_device
    line = (
        f"waits for its loader {1 - on_device / loading:.0%} of the time: {wanted:.0f} cores and workers would feed it"
    )
    return [Limit(node.name, "data", line, "raise meta.cpu and trainer.workers, or cut fewer views")]


def _limit(node: Node, what: str, line: str) -> Limit:
    return Limit(node.name, what, line, TAKES_OVER.get((node.stage, what), "raise the limit in dvc.yaml's meta"))
