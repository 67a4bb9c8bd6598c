"""Evaluations that say in their metrics why they could not be done: who they are, and how DVC does them again.

For DVC such a stage has succeeded, so that compare and promote run without it, and its next `dvc repro` leaves it as it
is until something that it depends on has changed. What failed by chance (a device that another process had filled)
must be forced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.common.errors import ExitCode
from pipelines.dag import Dag, read_dag

STAGE = "evaluate"
ON_KUBEFLOW = "raise evaluate.<task>.retry to try again: the cache holds the failure"


def failed(folder: Path) -> dict[str, str]:
    """DVC stage -> reason, of every evaluation of the workspace's DAG that failed."""
    found: dict[str, str] = {}
    for file in sorted((folder / "metrics").glob("*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and "error" in document:
            found[f"{STAGE}@{file.stem}"] = " ".join(str(document["error"]).split())
    if not found:
        return found
    known = {node.name for node in read_dag(folder).nodes}
    return {name: reason for name, reason in found.items() if name in known}


def tell(found: Mapping[str, str], do: str) -> ExitCode:
    """Say which evaluations failed and what to do; the exit code of a run that holds them."""
    if not found:
        return ExitCode.OK
    lines = [f"  {name}: {reason}" for name, reason in found.items()]
    print("\n".join(["", f"{len(found)} evaluations failed ({do}):", *lines]), flush=True)
    return ExitCode.CRASH


def stamps(folder: Path) -> dict[str, int]:
    """DVC stage -> when its metrics were written, of those that failed."""
    return {name: _file(folder, name).stat().st_mtime_ns for name in failed(folder)}


def left_alone(folder: Path, before: dict[str, int], targets: Sequence[str]) -> list[str]:
    """Those that failed before and that a `dvc repro` of these targets did not do again."""
    left = [name for name, stamp in stamps(folder).items() if before.get(name) == stamp]
    return [name for name in left if name in _needed(read_dag(folder), targets)] if left and targets else left


def _file(folder: Path, name: str) -> Path:
    return folder / "metrics" / f"{name.partition('@')[2]}.json"


def _needed(dag: Dag, targets: Sequence[str]) -> set[str]:
    """The targets (a stage, or all of a name) and what they are made from."""
    needed = {node.name for node in dag.nodes if node.name in targets or node.stage in targets}
    while more := {producer for producer, consumer in dag.edges if consumer in needed} - needed:
        needed |= more
    return needed
