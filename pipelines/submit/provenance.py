"""What each task of a run was made of: its parameters and code, the tasks it read from, and a hash of all that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.common import hashing
from pipelines.submit import spec

Json = dict[str, Any]


@dataclass(frozen=True)
class Execution:
    """One task as a run carries it out.

    Attributes:
        values: its parameters by name (`pretrain__dino`, `code_hash`).
        outputs: output -> (folder of the task that writes it, its name there); another task where it is a group.
        fingerprint: equal for two runs that make the same.
    """

    values: dict[str, Any]
    outputs: dict[str, tuple[str, str]]
    fingerprint: str


def executions(documents: list[Json], given: Mapping[str, Any]) -> dict[str, Execution]:
    """The executions of a run, by task key.

    Args:
        documents: its compiled pipeline.
        given: runtime parameters; the others have their defaults.
    """
    pipeline = documents[0]
    dag, values = _inner(pipeline, {**spec.inputs(documents), **given})
    found: dict[str, Execution] = {}
    for key in spec.ordered(dag["tasks"]):
        found[key] = _execution(pipeline, key, dag["tasks"][key], values, found)
    return found


def _inner(pipeline: Json, values: Mapping[str, Any]) -> tuple[Json, Mapping[str, Any]]:
    """The tasks below the exit handler, with the names that values have there; the root's where there is none."""
    dag = pipeline["root"]["dag"]
    for task in dag["tasks"].values():
        component = pipeline["components"][task["componentRef"]["name"]]
        if task["componentRef"]["name"].startswith("comp-exit-handler") and "dag" in component:
            return component["dag"], _values(task, values)
    return dag, values


def _execution(
    pipeline: Json, key: str, task: Json, values: Mapping[str, Any], made: dict[str, Execution]
) -> Execution:
    component = pipeline["components"][task["componentRef"]["name"]]
    own = _values(task, values)
    read = {}
    for name, source in task.get("inputs", {}).get("artifacts", {}).items():
        producer = source.get("taskOutputArtifact", {})
        if producer:
            read[name] = [made[producer["producerTask"]].fingerprint, producer["outputArtifactKey"]]
    facts = spec.plain([_content(pipeline, component), own, read])
    outputs = component.get("outputDefinitions", {}).get("artifacts", {})
    return Execution(own, {name: _writer(pipeline, key, component, name) for name in outputs}, hashing.json_hash(facts))


def _values(task: Json, values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in source:
            found[name] = values.get(source["componentInputParameter"])
        elif "runtimeValue" in source:
            found[name] = source["runtimeValue"].get("constant")
    return found


def _content(pipeline: Json, component: Json) -> Json:
    """A component with the containers and components that it names: names alone say nothing."""
    if "executorLabel" in component:
        return {**component, "executor": pipeline["deploymentSpec"]["executors"][component["executorLabel"]]}
    tasks = component["dag"]["tasks"]
    below = {key: pipeline["components"][task["componentRef"]["name"]] for key, task in tasks.items()}
    return {**component, "below": {key: _content(pipeline, inner) for key, inner in below.items()}}


def _writer(pipeline: Json, key: str, component: Json, output: str) -> tuple[str, str]:
    """Who writes an output: the task itself, or one inside a group."""
    if "dag" not in component:
        return key, output
    selected = component["dag"]["outputs"]["artifacts"][output]["artifactSelectors"][0]
    inner = component["dag"]["tasks"][selected["producerSubtask"]]
    below = pipeline["components"][inner["componentRef"]["name"]]
    return _writer(pipeline, selected["producerSubtask"], below, selected["outputArtifactKey"])
