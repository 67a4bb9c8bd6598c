"""The DAG as data, read from dvc.yaml through DVC's own API: nobody writes it a second time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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


@dataclass(frozen=True)
class Dag:
    """Nodes in an order in which they can run, and edges (producer, consumer)."""

    nodes: tuple[Node, ...]
    edges: frozenset[tuple[str, str]]


def read_dag(folder: Path) -> Dag:
    """Resolve dvc.yaml in `folder`: matrices, parameters, and edges by path (a folder contains its files)."""
    import networkx
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        graph = repo.index.graph
        edges = frozenset((dep.name, stage.name) for stage, dep in graph.edges)
        order = [stage.name for stage in networkx.topological_sort(graph.reverse())]
        return Dag(tuple(_node(stages[name]) for name in order), edges)


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
