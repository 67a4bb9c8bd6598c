"""The DAG as data, read from dvc.yaml through DVC's own API: nobody writes it a second time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from pipelines.needs import Needs, parse_needs

CODE = "components/"  # dependencies that an image brings along


@dataclass(frozen=True)
class Node:
    """One stage of the resolved DAG: `pretrain@dino` with its command, paths, parameters and `meta`."""

    name: str
    cmd: str
    desc: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]
    meta: dict[str, Any] = field(hash=False)

    @property
    def stage(self) -> str:
        """The stage's folder below components/."""
        return self.name.partition("@")[0]

    @cached_property
    def needs(self) -> Needs:
        """`meta`, checked; raises StageError."""
        return parse_needs(self.name, self.meta)

    @property
    def code(self) -> tuple[str, ...]:
        """The dependencies that are code."""
        return tuple(dep for dep in self.deps if dep.startswith(CODE))

    @property
    def data(self) -> tuple[str, ...]:
        """The dependencies that other stages make."""
        return tuple(dep for dep in self.deps if not dep.startswith(CODE))


@dataclass(frozen=True)
class Dag:
    """Nodes in an order in which they can run, and edges (producer, consumer)."""

    nodes: tuple[Node, ...]
    edges: frozenset[tuple[str, str]]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


def read_dag(folder: Path) -> Dag:
    """Resolve dvc.yaml in `folder`: matrices, parameters, and edges by path (a folder contains its files).

    Raises:
        StageError: dvc.yaml or params.yaml cannot be read, stages wait for each other, or two make one output.
    """
    import networkx
    from dvc.exceptions import CyclicGraphError, DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(folder)) as repo:
            stages = {stage.name: stage for stage in repo.index.stages}
            graph = repo.index.graph
            edges = frozenset((dep.name, stage.name) for stage, dep in graph.edges)
            order = list(networkx.lexicographical_topological_sort(graph.reverse(), key=lambda stage: stage.name))
            return Dag(tuple(_node(stages[stage.name]) for stage in order), edges)
    except CyclicGraphError as error:
        waiting = str(error).partition(": ")[2].rstrip(".").split(", ")
        around = ", ".join(sorted(stage.rpartition("dvc.yaml:")[2] for stage in waiting))
        do = "an output must not be a dependency of what it is made from"
        raise StageError(f"stages wait for each other in a cycle: {around}", where=folder / "dvc.yaml", do=do) from None
    except DvcException as error:
        raise StageError(" ".join(str(error).split()), where=folder / "dvc.yaml", do="mend the stages there") from None


def check_sources(dag: Dag) -> None:
    """Every dependency comes from a stage, or with the image; raises StageError for one that a pod would not find.

    A folder of several outputs counts as made if some stage makes something in it.
    """
    made = [out for node in dag.nodes for out in node.outs]
    for node in dag.nodes:
        for dep in node.data:
            if not any(out == dep or out.startswith(f"{dep}/") for out in made):
                do = "let a stage make it (download copies files of yours)"
                raise StageError(
                    f"'{dep}' is a dependency of '{node.name}' that no stage makes", where="dvc.yaml", do=do
                )


def _node(stage: Any) -> Node:
    params = [dep for dep in stage.deps if hasattr(dep, "params")]
    return Node(
        name=stage.name,
        cmd=stage.cmd,
        desc=stage.desc or "",
        deps=tuple(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
        outs=tuple(out.def_path for out in stage.outs),
        params=tuple(name for dep in params for name in dep.params),
        meta=dict(stage.meta or {}),
    )
