"""When each task runs: list scheduling on a machine's or a cluster's slots, and the path that decides the end.

A task starts when all that it reads is there and enough cores and devices are free; of those that could start, the one
with the longest way still to go goes first (R. L. Graham, 1969: at most twice the best schedule).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from components.common.errors import StageError
from pipelines.dag import Node
from pipelines.forecast.plan import Run
from pipelines.forecast.rates import Rates
from pipelines.forecast.work import Artifact, Work


@dataclass(frozen=True)
class Slots:
    """What there is to run on.

    Attributes:
        cpus, gpus: in all.
        device: name in forecast.yaml, or None where cores do the arithmetic.
        cluster: pods with copied artifacts, side by side; else `dvc repro`, one stage at a time on all cores.
        fan_out_pods: parts of one stage that run at once.
    """

    cpus: float
    gpus: int
    device: str | None
    cluster: bool
    fan_out_pods: int


@dataclass(frozen=True)
class Task:
    """A pod, or a local stage: what it occupies and for how long.

    Attributes:
        copy_s: part of `seconds` that copies inputs and outputs; `gpu_s`: seconds for which devices are held, times
            their number.
    """

    name: str
    node: str
    seconds: float
    cpus: float
    gpus: int
    after: tuple[str, ...]
    copy_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(frozen=True)
class Placed:
    """A task on the clock."""

    task: Task
    start_s: float
    end_s: float
    held_by: str | None  # the task whose end let this one start


def tasks_of(run: Run, slots: Slots) -> list[Task]:
    """The DAG's nodes as tasks; on a cluster a fanned-out one is its parts and, under its own name, their merge."""
    made: list[Task] = []
    for node in run.dag.nodes:
        work = run.work[node.name]
        after = tuple(sorted(before for before, name in run.dag.edges if name == node.name))
        if slots.cluster and work.pods > 1:
            made += _parts(run, node, work, after, slots)
        else:
            made.append(_task(run, node, node.name, work, after, slots, run.taken_in(node).bytes))
    return made


def _parts(run: Run, node: Node, work: Work, after: tuple[str, ...], slots: Slots) -> list[Task]:
    """Every part copies all videos and works on its own; so many at once, then a merge that copies and hashes."""
    own = math.ceil(work.width / work.pods)  # videos of the longest part: one cannot be cut
    share = own / work.width
    outs = {path: Artifact(out.bytes * share, out.files * share) for path, out in work.outs.items()}
    one = replace(work, core_s=work.core_s * share, serial_s=work.serial_s * share, width=own, outs=outs)
    parts: list[Task] = []
    for number in range(work.pods):
        wait = (parts[number - slots.fan_out_pods].name,) if number >= slots.fan_out_pods else ()
        name = f"{node.name} {number + 1}/{work.pods}"
        parts.append(_task(run, node, name, one, (*after, *wait), slots, run.taken_in(node).bytes))
    merge = replace(work, core_s=0.0, serial_s=work.out_bytes / run.rates.machine.hash_bytes_per_s)
    names = tuple(part.name for part in parts)
    return [*parts, _task(run, node, node.name, merge, names, slots, work.out_bytes)]


def _task(run: Run, node: Node, name: str, work: Work, after: tuple[str, ...], slots: Slots, read_bytes: float) -> Task:
    cpus = min(node.needs.cpu, slots.cpus) if slots.cluster else slots.cpus
    gpus = node.needs.gpus * node.needs.nodes if slots.device else 0
    if gpus > slots.gpus:
        what = f"'{node.name}' asks for {gpus} devices, there are {slots.gpus}"
        raise StageError(what, where="dvc.yaml, meta", do="raise --gpus or lower meta.gpus")
    seconds = work_seconds(work, cpus, gpus, slots.device, run.rates)
    copied = 0.0
    if slots.cluster:
        copied = (read_bytes + work.out_bytes) / run.rates.machine.copy_bytes_per_s
        seconds += run.rates.machine.pod_start_s + copied
    return Task(name, node.name, seconds, cpus, gpus, after, copied, gpus * seconds)


def work_seconds(work: Work, cpus: float, gpus: int, device: str | None, rates: Rates) -> float:
    """Wall time of the work itself: cores and devices side by side, and what one core does alone."""
    cores = max(1.0, min(cpus, work.width))
    if device is None or not gpus:
        arithmetic = work.core_s / cores + work.flops / rates.train.cpu_flops / cpus
        return work.start_s + work.serial_s + arithmetic
    found = rates.devices[device]
    share = found.share_compiled if work.compiled else found.share_eager
    on_device = work.flops / (found.peak_flops * share * gpus)
    return work.start_s + work.serial_s + max(work.core_s / cores, on_device)


def schedule(tasks: list[Task], slots: Slots) -> list[Placed]:
    """Every task with its start and end, by start."""
    if not slots.cluster:
        return _one_after_another(tasks)
    rank = _ranks(tasks)
    by_name = {task.name: task for task in tasks}
    waiting = {task.name: set(task.after) for task in tasks}
    free_cpus, free_gpus, now = slots.cpus, slots.gpus, 0.0
    running: list[tuple[float, str]] = []
    placed: dict[str, Placed] = {}
    last: str | None = None
    while len(placed) < len(tasks) or running:
        ready = [name for name, left in waiting.items() if not left and name not in placed]
        for name in sorted(ready, key=lambda n: (-rank[n], n)):
            task = by_name[name]
            if task.cpus <= free_cpus and task.gpus <= free_gpus:
                free_cpus, free_gpus = free_cpus - task.cpus, free_gpus - task.gpus
                placed[name] = Placed(task, now, now + task.seconds, last)
                heapq.heappush(running, (now + task.seconds, name))
        now, last = heapq.heappop(running)
        free_cpus, free_gpus = free_cpus + by_name[last].cpus, free_gpus + by_name[last].gpus
        for left in waiting.values():
            left.discard(last)
    return sorted(placed.values(), key=lambda p: (p.start_s, p.task.name))


def _one_after_another(tasks: list[Task]) -> list[Placed]:
    placed: list[Placed] = []
    for task in tasks:
        start = placed[-1].end_s if placed else 0.0
        placed.append(Placed(task, start, start + task.seconds, placed[-1].task.name if placed else None))
    return placed


def _ranks(tasks: list[Task]) -> dict[str, float]:
    """Seconds from a task's start to the end of the longest chain that it begins."""
    followers: dict[str, list[str]] = {task.name: [] for task in tasks}
    for task in tasks:
        for before in task.after:
            followers[before].append(task.name)
    ranks: dict[str, float] = {}
    for task in reversed(tasks):  # tasks come in an order in which they can run
        ranks[task.name] = task.seconds + max((ranks[name] for name in followers[task.name]), default=0.0)
    return ranks


def critical_path(placed: list[Placed]) -> list[Placed]:
    """The chain that decides the end: each task started the moment the one before it ended."""
    by_name: Mapping[str, Placed] = {p.task.name: p for p in placed}
    path = [max(placed, key=lambda p: (p.end_s, p.task.name))]
    while path[-1].held_by is not None:
        path.append(by_name[path[-1].held_by])
    return path[::-1]
