"""Fetch what a run has made into a workspace, and let DVC know that its stages are done.

A stage counts as done there only if its parameters, its code and what it has read are the run's.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.config import nearest
from components.common.errors import ExitCode, StageError
from components.common.s3.artifact import Artifact
from components.common.s3.fetch import fetch_all
from components.common.s3.store import Store
from pipelines.compile import Plan, plan
from pipelines.dag import Node
from pipelines.submit import spec
from pipelines.submit.artifacts import Finder
from pipelines.submit.cli import Access
from pipelines.submit.provenance import Execution
from pipelines.submit.state import TaskState, read_state
from pipelines.submit.tracked import holds, is_known
from pipelines.wiring import input_name, task_name
from pipelines.workspace import make_workspace

SHOWN = 3  # differences in a message


@dataclass(frozen=True)
class Piece:
    """An output of a stage: where it belongs, what lies in the store, and whether it is there already."""

    node: Node
    place: Path
    artifact: Artifact
    here: bool


def pull(way: Access, run_id: str, folder: Path, into: Path | None = None, only: list[str] | None = None) -> ExitCode:
    """Carry out `python -m pipelines.runs pull`.

    Args:
        way: how to reach the server.
        run_id: the run; it need not have ended.
        folder: the workspace whose parameters and code the run is compared with.
        into: another workspace, made with the run's parameters; what other code has made is fetched there too.
        only: names of the stages to fetch; default: all.

    Raises:
        StageError: the run is of other parameters or code, something of the user's is in the way, or what lies in the
            store is not what its marker says. Stages fetched until then are whole.
    """
    run = way.api.run(run_id)
    finder = Finder(way.api, Store(), way.cluster.pipeline_root)
    theirs = finder.executions(run)
    made = plan(folder, way.cluster)
    if into is not None:
        make_workspace(into, run_params(made, theirs))
        folder, made = into, plan(into, way.cluster)
    nodes = _chosen(made, only or [])
    states = {one.task.key: one for one in read_state(run, spec.tasks(finder.documents(run))).tasks}
    other = {node.name: differences(made, node, theirs) for node in nodes}
    if into is None:
        _refuse(other, run_id)
    done = [node for node in nodes if _is_done(node, states, theirs)]
    pieces = [piece for node in done for piece in _pieces(finder, run, made, node, folder, states, theirs)]
    for piece in pieces:
        _check_place(piece, folder)
    for piece in pieces:
        _bring(finder.store, piece)
    known = _commit(made, folder, [node for node in done if not other[node.name]], pieces)
    _report(nodes, done, known, pieces)
    return ExitCode.OK


def run_params(made: Plan, theirs: Mapping[str, Execution]) -> dict[str, Any]:
    """The workspace's parameters with the run's values in them."""
    params = copy.deepcopy(dict(made.params))
    for node in made.dag.nodes:
        execution = theirs.get(task_name(node.name))
        for path in node.params if execution else ():
            *above, last = path.split(".")
            place = params
            for part in above:
                place = place[part]
            place[last] = spec.plain(execution.values.get(input_name(path)))  # type: ignore[union-attr]
    return params


def differences(made: Plan, node: Node, theirs: Mapping[str, Execution]) -> list[str]:
    """How a stage of the workspace differs from the run's, in words."""
    execution = theirs.get(task_name(node.name))
    if execution is None:
        return [f"{node.name}: the run has no such stage"]
    found = []
    for path, value in made.values(node).items():
        found += _unlike(path, spec.plain(value), spec.plain(execution.values.get(input_name(path))))
    code = made.code[node.name]
    if execution.values.get("code_hash") != code.content:
        found.append(
            f"{node.name}: its code is another (the run's is of commit {execution.values.get('code_revision')})"
        )
    return found


def _unlike(path: str, here: Any, there: Any) -> list[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted({*here, *there})
        return [line for key in keys for line in _unlike(f"{path}.{key}", here.get(key), there.get(key))]
    return [] if here == there else [f"{path} is {here!r} here, {there!r} in the run"]


def _chosen(made: Plan, only: list[str]) -> list[Node]:
    names = [node.name for node in made.dag.nodes]
    for name in only:
        if name not in names:
            raise StageError(f"the pipeline has no stage '{name}'{nearest(name, names)}", where="--task")
    return [node for node in made.dag.nodes if not only or node.name in only]


def _refuse(other: Mapping[str, list[str]], run_id: str) -> None:
    found = list(dict.fromkeys(line for lines in other.values() for line in lines))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        what = f"the run is not of this workspace's parameters and code: {'; '.join(found[:SHOWN])}{more}"
        raise StageError(what, do=f"--into runs/{run_id[:8]} fetches it into a workspace of its own")


def _is_done(node: Node, states: Mapping[str, TaskState], theirs: Mapping[str, Execution]) -> bool:
    execution = theirs.get(task_name(node.name))
    writers = {folder for folder, _ in execution.outputs.values()} if execution else set()
    return bool(writers) and all(key in states and states[key].state in ("succeeded", "cached") for key in writers)


def _pieces(
    finder: Finder,
    run: dict[str, Any],
    made: Plan,
    node: Node,
    folder: Path,
    states: Mapping[str, TaskState],
    theirs: Mapping[str, Execution],
) -> list[Piece]:
    """The outputs of a finished stage; StageError for one that the store does not have."""
    execution = theirs[task_name(node.name)]
    found = []
    for output in made.wiring[node.name].outputs:
        if not output.path:
            continue  # DVC does not track it
        state = states[execution.outputs[output.flag][0]]
        artifact = finder.find(run, execution, output.flag, state.state == "cached", state.uris)
        if artifact is None:
            do = "was it removed, or is --cluster another one's?"
            raise StageError(f"'{output.flag}' of {node.name} is not in the store", where=finder.root, do=do)
        place = folder / output.path
        found.append(Piece(node, place, artifact, holds(place, artifact)))
    return found


def _check_place(piece: Piece, folder: Path) -> None:
    """Refuse to replace what no stage has made, before anything is fetched."""
    place, is_file = piece.place, "" in piece.artifact.objects
    for above in place.parents:
        if above.exists() and not above.is_dir():
            raise StageError(f"outputs of {piece.node.name} belong below, but it is a file", where=above)
    if piece.here or not place.exists():
        return
    if is_file == place.is_dir():
        raise StageError(f"an output of {piece.node.name} belongs here, something else is in its place", where=place)
    if not is_file:
        outputs.check_new_output(place)
    elif not is_known(folder, place):
        raise StageError("this file is not one that a stage has made", where=place, do="move it away")


def _bring(store: Store, piece: Piece) -> None:
    """Fetch an output beside its place, compare it with its marker, and rename it in."""
    if piece.here:
        return
    partial, parts = (
        outputs.stage_path(piece.place),
        outputs.stage_path(piece.place.with_name(piece.place.name + ".parts")),
    )
    print(f"fetching    {piece.place}", flush=True)
    piece.place.parent.mkdir(parents=True, exist_ok=True)
    wanted = [(obj, partial / name if name else partial) for name, obj in piece.artifact.objects.items()]
    fetch_all(store, wanted, parts)
    if partial.is_dir() and hashing.tree_hash(partial) != piece.artifact.content:
        outputs.remove(partial)
        raise StageError("what lies in the store is not what its marker says", where=piece.artifact.address)
    outputs.put_in_place(partial, piece.place)
    outputs.remove(parts)


def _commit(made: Plan, folder: Path, nodes: list[Node], pieces: list[Piece]) -> list[str]:
    """Record the stages in dvc.lock whose inputs are the run's as well; returns their names."""
    fetched = {piece.node.name for piece in pieces}
    settled: list[str] = []
    for node in nodes:
        needed = {producer for producer, consumer in made.dag.edges if consumer == node.name}
        if node.name in fetched and needed <= set(settled):
            settled.append(node.name)
    if settled:
        command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *settled]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise StageError(f"DVC does not take the outputs: {said}", where=folder, do="they are in place; dvc commit")
    return settled


def _report(nodes: list[Node], done: list[Node], known: list[str], pieces: list[Piece]) -> None:
    new = {piece.node.name for piece in pieces if not piece.here}
    print(f"fetched     {len(new)} of {len(done)} finished stages, {len(done) - len(new)} were here already")
    print(f"done        {len(known)} stages, which `dvc repro` need not run")
    unknown = [node.name for node in done if node.name not in known]
    if unknown:
        print(f"not done    {', '.join(unknown)}: of other code, or what they read is not here")
    if missing := [node.name for node in nodes if node not in done]:
        print(f"not there   {', '.join(missing)}: the run has not made them")
