"""Parameters of a run: checked before anything is uploaded, and kept apart from the defaults of the version."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.common.config import nearest
from components.common.errors import StageError
from pipelines.compile import Plan
from pipelines.dag import Node
from pipelines.wiring import input_name
from pipelines.workspace import merged_params, recipe_file

SHAPE = ("datasets", "corpora", "corpus", "methods", "tasks")  # keys of params.yaml that decide which nodes there are
CHECKS = 4  # stages that check their parameters at once; each is a process of half a second


def check_changes(made: Plan, changes: list[str]) -> None:
    """Refuse a `--set` that no node of the pipeline would see."""
    known = sorted({*SHAPE, *(path for node in made.dag.nodes for path in node.params)})
    for change in changes:
        path = change.partition("=")[0]
        if not any(_concerns(path, other) for other in known):
            head = ".".join(path.split(".")[:2])
            raise StageError(f"nothing of the pipeline depends on '{path}'{nearest(head, known)}", where="--set")


def check_parameters(made: Plan, folder: Path) -> None:
    """Let each stage check its own parameters; raises StageError with the stages' own words."""
    checked: dict[tuple[str, tuple[str, ...]], Node] = {(node.stage, node.params): node for node in made.dag.nodes}
    with ThreadPoolExecutor(CHECKS) as pool:
        complaints = list(pool.map(lambda node: _complaint(node, folder), checked.values()))
    if wrong := sorted(set(filter(None, complaints))):
        raise StageError("; ".join(wrong))


def base_values(made: Plan, recipe: str | None) -> dict[str, Any]:
    """The pipeline's inputs as the recipe has them, without changes; those that it lacks are left out."""
    params = merged_params(recipe_file(recipe) if recipe else None, [])
    found: dict[str, Any] = {}
    for path in {path for node in made.dag.nodes for path in node.params}:
        value: Any = params
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[input_name(path)] = value
    return found


def split(
    documents: list[dict[str, Any]], values: Mapping[str, Any], base: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Put the recipe's values in the place of the pipeline's defaults, and return what the run changes.

    Args:
        documents: the compiled pipeline, whose defaults are `values`.
        values: input -> value of this run.
        base: input -> value of the recipe; an input that it lacks keeps its own.
    """
    changed = {name: value for name, value in values.items() if name in base and base[name] != value}
    root = documents[0]["root"]
    declared = dict(root["inputDefinitions"]["parameters"])
    for name in changed:
        declared[name] = {**declared[name], "defaultValue": base[name]}
    first = {**documents[0], "root": {**root, "inputDefinitions": {"parameters": declared}}}
    return [first, *documents[1:]], changed


def _concerns(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _complaint(node: Node, folder: Path) -> str:
    command = [sys.executable, *shlex.split(node.cmd)[1:], "--check"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"{node.name} did not check its parameters"])[-1]
