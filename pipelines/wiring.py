"""How a node's command line becomes a task: which flag is an input, an output or a name, and who makes what it reads.

The command of dvc.yaml says it all: a flag whose value is an output of another node is an input, one whose value is an
output of this node is an output, and any other is a name (`--method dino`) or a file of the code. Types come from the
stage's declaration.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from pipelines.dag import CODE, Dag, Node


@dataclass(frozen=True)
class Link:
    """An artifact that a task reads.

    Attributes:
        flag: of the reading stage.
        member: its name in the folder where the flag takes many, else empty.
        producer: node that makes it.
        output: flag under which the producer makes it.
    """

    flag: str
    member: str
    producer: str
    output: str

    @property
    def name(self) -> str:
        """Name of the task's input."""
        return f"{self.flag}__{identifier(self.member)}" if self.member else self.flag


@dataclass(frozen=True)
class Output:
    """An artifact that a task makes: its flag, its place in the workspace ("" if DVC does not track it), its type."""

    flag: str
    path: str
    type: str


@dataclass(frozen=True)
class Wiring:
    """One node's command, taken apart; `names` are the flags that are neither input nor output."""

    node: Node
    names: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]
    outputs: tuple[Output, ...]


def task_name(node: str) -> str:
    """`extract_frames@sample` as Kubeflow writes it: `extract-frames-sample`."""
    return re.sub(r"[^a-z0-9]+", "-", node.lower()).strip("-")


def input_name(path: str) -> str:
    """`pretrain.dino` as a pipeline input: `pretrain__dino`."""
    return "__".join(identifier(part) for part in path.split("."))


def identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)


def wire(dag: Dag, folder: Path) -> dict[str, Wiring]:
    """The wiring of every node.

    Args:
        dag: the DAG of dvc.yaml.
        folder: where components/ can be imported.

    Raises:
        StageError: a command, a flag or a dependency that does not fit the stage's declaration; names that collide.
    """
    made = {out: (node.name, flag) for node in dag.nodes for flag, out in _flags(node) if out in node.outs}
    names = [task_name(node.name) for node in dag.nodes]
    if doubles := {name for name in names if names.count(name) > 1}:
        raise StageError(f"two stages share the task name '{doubles.pop()}'", where="dvc.yaml", do="rename one")
    return {node.name: _wire(node, describe(node.stage, folder), made) for node in dag.nodes}


@functools.cache
def describe(stage: str, folder: Path) -> dict[str, Any]:
    """What the stage declares; asked of the stage itself, because pipelines import no stage."""
    command = [sys.executable, "-m", f"components.{stage}", "--describe"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise StageError(f"stage '{stage}' does not describe itself: {why[0]}", where="dvc.yaml")
    return dict(json.loads(done.stdout))


def _flags(node: Node) -> list[tuple[str, str]]:
    words = shlex.split(node.cmd)
    head, rest = words[:3], words[3:]
    flags, values = rest[0::2], rest[1::2]
    fits = head == ["python", "-m", f"components.{node.stage}"] and len(flags) == len(values)
    if not fits or not all(flag.startswith("--") for flag in flags):
        expected = f"python -m components.{node.stage} --flag value ..."
        raise StageError(f"the command of '{node.name}' is not '{expected}'", where="dvc.yaml")
    return [(flag[2:], value) for flag, value in zip(flags, values, strict=True)]


def _wire(node: Node, stage: dict[str, Any], made: dict[str, tuple[str, str]]) -> Wiring:
    names, links, outputs = [], list[Link](), []
    for flag, value in _flags(node):
        if flag in stage["outputs"]:
            outputs.append(Output(flag, value, stage["outputs"][flag]["type"]))
        elif flag in stage["inputs"] and value.startswith(CODE):
            names.append((flag, value))  # a file that the image brings along
        elif flag in stage["inputs"]:
            links += _links(node, flag, value, stage["inputs"][flag]["many"], made)
        elif flag in stage["keys"]:
            names.append((flag, value))
        else:
            raise StageError(f"stage '{node.stage}' has no '--{flag}'", where=f"dvc.yaml, {node.name}")
    given = {output.flag for output in outputs}
    more = [Output(flag, "", port["type"]) for flag, port in stage["outputs"].items() if flag not in given]
    _check(node, links, [output.path for output in outputs])
    return Wiring(node, tuple(names), tuple(links), (*outputs, *more))


def _links(node: Node, flag: str, value: str, many: bool, made: dict[str, tuple[str, str]]) -> list[Link]:
    if value in made:
        return [Link(flag, "", *made[value])]
    members = {out[len(value) + 1 :]: maker for out, maker in made.items() if out.startswith(f"{value}/")}
    found = [Link(flag, member, *maker) for member, maker in sorted(members.items()) if maker[0] != node.name]
    nested = [link.member for link in found if "/" in link.member]
    if not found or not many or nested or len({link.name for link in found}) < len(found):
        raise StageError(f"'--{flag} {value}' is made by no stage as it is read", where=f"dvc.yaml, {node.name}")
    return found


def _check(node: Node, links: list[Link], outputs: list[str]) -> None:
    """The command's paths and DVC's are the same: else a pod would lack what a laptop has."""
    if set(outputs) != set(node.outs):
        raise StageError(f"outs and command of '{node.name}' name different paths", where="dvc.yaml")
    flags = {value for _, value in _flags(node)}
    if missing := [dep for dep in node.data if dep not in flags]:
        raise StageError(f"the command of '{node.name}' does not name its dependency '{missing[0]}'", where="dvc.yaml")
