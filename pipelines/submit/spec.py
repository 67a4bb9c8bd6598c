"""A compiled pipeline read back: its tasks, whatever groups (exit handler, loops) hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.common import hashing
from components.common.errors import StageError

Json = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task that runs a container.

    Attributes:
        key: its name in the compiled file, and the folder of its artifacts: `pretrain-dino`.
        label: its name for people: `pretrain@dino`.
        image: of its container.
        outputs: names of its output artifacts.
        looped: it runs once for each part of a fan-out.
        cleanup: it runs whatever became of the others (the exit handler's task).
    """

    key: str
    label: str
    image: str
    outputs: tuple[str, ...]
    looped: bool = False
    cleanup: bool = False


def read_documents(file: Path) -> list[Json]:
    """The documents of a compiled pipeline: its specification, and what is Kubernetes' own."""
    documents = [d for d in yaml.safe_load_all(file.read_text(encoding="utf-8")) if d]
    if not documents or "root" not in documents[0]:
        raise StageError("not a compiled pipeline", where=file, do="python -m pipelines.compile makes one")
    return documents


def as_documents(answer: Json) -> list[Json]:
    """The documents of a pipeline_spec as the server sends it: one specification, or both below their names."""
    if "root" in answer:
        return [answer]
    found = [answer[key] for key in ("pipeline_spec", "platform_spec") if answer.get(key)]
    return found if found and "root" in found[0] else []


def content_hash(documents: list[Json]) -> str:
    """Hash of a compiled pipeline; numbers count by value, since JSON turns 1 into 1.0."""
    return hashing.json_hash(plain(documents))


def tasks(documents: list[Json]) -> list[Task]:
    """Its container tasks, each after those it needs."""
    spec = documents[0]
    return list(_below(spec, spec["root"]["dag"], looped=False))


def inputs(documents: list[Json]) -> dict[str, Any]:
    """Its parameters by name, with their defaults."""
    declared = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: entry.get("defaultValue") for name, entry in declared.items()}


def images(documents: list[Json]) -> list[str]:
    return sorted({task.image for task in tasks(documents)})


def _below(spec: Json, dag: Json, looped: bool) -> Iterator[Task]:
    for key in ordered(dag["tasks"]):
        task = dag["tasks"][key]
        component = spec["components"][task["componentRef"]["name"]]
        inner = looped or "parameterIterator" in task or "artifactIterator" in task
        if "dag" in component:
            yield from _below(spec, component["dag"], inner)
        else:
            yield _task(spec, key, task, component, inner)


def _task(spec: Json, key: str, task: Json, component: Json, looped: bool) -> Task:
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]].get("container", {})
    outputs = component.get("outputDefinitions", {}).get("artifacts", {})
    label = task.get("taskInfo", {}).get("name") or key
    cleanup = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
    return Task(key, label, container.get("image", ""), tuple(sorted(outputs)), looped, cleanup)


def ordered(tasks: Json) -> list[str]:
    """Keys so that each comes after those it depends on; the file itself is in alphabetical order."""
    levels: dict[str, int] = {}

    def level(key: str) -> int:
        if key not in levels:
            needed = set(tasks[key].get("dependentTasks", [])) & set(tasks)
            levels[key] = 1 + max((level(other) for other in needed), default=0)
        return levels[key]

    return sorted(tasks, key=lambda key: (level(key), key))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
