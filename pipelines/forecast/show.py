"""The forecast in words and as JSON."""

from __future__ import annotations

from typing import Any

from pipelines.forecast.judge import COUNTED, ESTIMATE
from pipelines.forecast.limits import HOUR_S, Limit
from pipelines.forecast.plan import Run
from pipelines.forecast.schedule import Placed, Slots, critical_path

COLUMNS = ("node", "time", "cores", "GPUs", "GPU-h", "in", "out", "copying", "memory", "disk")


def document(run: Run, placed: list[Placed], slots: Slots, found: list[Limit]) -> dict[str, Any]:
    """Everything as plain data; seconds and bytes."""
    return {
        "corpora": {
            name: {"videos": v.n, "video_s": v.video_s, "bytes": v.bytes, "known": v.known}
            for name, v in run.videos.items()
        },
        "slots": {"cpus": slots.cpus, "gpus": slots.gpus, "device": slots.device or "cpu", "cluster": slots.cluster},
        "nodes": {node.name: _node(run, placed, node.name) for node in run.dag.nodes},
        "totals": _totals(run, placed),
        "critical_path": [{"task": p.task.name, "seconds": p.task.seconds} for p in critical_path(placed)],
        "limits": [vars(limit) for limit in found],
        "assumed": _assumed(run, slots),
        "estimated": sorted(set(run.params["tasks"]) - COUNTED),
    }


def _assumed(run: Run, slots: Slots) -> dict[str, float]:
    """The figures that nobody measured and that this forecast rests on."""
    idle = {f"devices.{name}." for name in run.rates.devices if name != slots.device}
    used = {*run.benchmarks, *("other" for b in run.benchmarks.values() if b == run.rates.benchmarks["other"])}
    idle |= {f"benchmarks.{name}." for name in run.rates.benchmarks if name not in used}
    idle |= set() if slots.cluster else {"machine.pod_start_s", "machine.copy_bytes_per_s"}
    idle |= {"source."} if all(videos.drawn for videos in run.videos.values()) else set()
    figures = run.rates.sources.items()
    return {name: f.value for name, f in figures if f.how == "assumed" and not name.startswith(tuple(idle))}


def _node(run: Run, placed: list[Placed], name: str) -> dict[str, Any]:
    work, mine = run.work[name], [p for p in placed if p.task.node == name]
    read = run.taken_in(run.dag.node(name))
    return {
        "seconds": max(p.end_s for p in mine) - min(p.start_s for p in mine),
        "starts_s": min(p.start_s for p in mine),
        "pods": len(mine),
        "cpus": max(p.task.cpus for p in mine),
        "gpus": max(p.task.gpus for p in mine),
        "gpu_s": sum(p.task.gpu_s for p in mine),
        "copy_s": sum(p.task.copy_s for p in mine),
        "in_bytes": read.bytes,
        "out_bytes": work.out_bytes,
        "out_files": sum(out.files for out in work.outs.values()),
        "scratch_bytes": work.scratch_bytes,
        "memory_bytes": work.memory_bytes,
        "shm_bytes": work.shm_bytes,
        "flops": work.flops,
        "core_s": work.start_s + work.core_s + work.serial_s,
        "facts": work.facts,
    }


def _totals(run: Run, placed: list[Placed]) -> dict[str, float]:
    outs = [out for work in run.work.values() for out in work.outs.values()]
    return {
        "seconds": max(p.end_s for p in placed),
        "gpu_s": sum(p.task.gpu_s for p in placed),
        "cpu_s": sum(p.task.seconds * p.task.cpus for p in placed),
        "storage_bytes": sum(out.bytes for out in outs),
        "files": sum(out.files for out in outs),
        "scratch_bytes": max(work.scratch_bytes for work in run.work.values()),
        "copied_bytes": sum(p.task.copy_s for p in placed) * run.rates.machine.copy_bytes_per_s,
    }


def text(told: dict[str, Any], title: str) -> str:
    """The forecast as a page of a terminal."""
    slots, totals = told["slots"], told["totals"]
    where = f"{slots['gpus']} x {slots['device']}, " if slots["gpus"] else ""
    how = "a cluster, pods side by side" if slots["cluster"] else "this machine, one stage after the other"
    lines = [f"{title}: {where}{slots['cpus']:g} cores, {how}"]
    for name, corpus in told["corpora"].items():
        length = duration(corpus["videos"] * corpus["video_s"])
        lines.append(
            f"{name}: {corpus['videos']:,} videos, {length} in all, {size(corpus['bytes'])} ({corpus['known']})"
        )
    lines += ["", *_table(told["nodes"]), ""]
    lines.append(f"Time       {duration(totals['seconds'])}; GPU-hours {totals['gpu_s'] / HOUR_S:,.3g}")
    scratch = size(totals["scratch_bytes"])
    lines.append(
        f"Storage    {size(totals['storage_bytes'])} in {totals['files']:,.0f} files; up to {scratch} of scratch"
    )
    if slots["cluster"]:
        lines.append(f"Copied     {size(totals['copied_bytes'])} of artifacts between store and pods")
    path = " > ".join(f"{step['task']} {duration(step['seconds'])}" for step in told["critical_path"])
    lines.append(f"Decided by {path}" if slots["cluster"] else f"Longest    {_longest(told['nodes'])}")
    lines += [
        f"Warning    {limit['node']} {limit['line']}\n           -> {limit['takes_over']}" for limit in told["limits"]
    ]
    if told["estimated"]:
        lines.append(f"Estimated  {', '.join(told['estimated'])}: {ESTIMATE}")
    if told["assumed"]:
        rest = ", ".join(f"{name}={value:g}" for name, value in told["assumed"].items())
        lines += ["", f"Assumed, not measured (--assume a.b=value changes one): {rest}"]
    return "\n".join(lines)


def _longest(nodes: dict[str, Any]) -> str:
    first = sorted(nodes, key=lambda name: -nodes[name]["seconds"])[:3]
    return ", ".join(f"{name} {duration(nodes[name]['seconds'])}" for name in first)


def _table(nodes: dict[str, Any]) -> list[str]:
    rows = [COLUMNS, *(_row(name, node) for name, node in nodes.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _row(name: str, node: dict[str, Any]) -> tuple[str, ...]:
    pods = f" x {node['pods']}" if node["pods"] > 1 else ""
    return (
        name + pods,
        duration(node["seconds"]),
        f"{node['cpus']:g}",
        str(node["gpus"]) if node["gpus"] else "-",
        f"{node['gpu_s'] / HOUR_S:.3g}" if node["gpu_s"] else "-",
        size(node["in_bytes"]),
        size(node["out_bytes"]),
        duration(node["copy_s"]) if node["copy_s"] else "-",
        size(node["memory_bytes"]),
        size(node["in_bytes"] + node["out_bytes"] + node["scratch_bytes"]),
    )


def size(count: float) -> str:
    """Bytes for people: powers of 1000, as storage is sold; three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} EB"


def duration(seconds: float) -> str:
    """Seconds for people: two units at most."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds / 60, seconds / HOUR_S, seconds / (24 * HOUR_S)
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    if hours < 99.5:
        return f"{hours:.1f} h"
    return f"{days:,.0f} d" if days < 999.5 else f"{days / 365.25:,.3g} years"
