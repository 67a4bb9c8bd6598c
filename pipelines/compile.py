"""dvc.yaml as a Kubeflow pipeline: `python -m pipelines.compile --out pipeline.yaml`.

A node is a task of the same name, an edge the artifact that one makes and the other reads, a section of params.yaml an
input of the pipeline. Nothing of the DAG is written here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from components.common.config import nearest, read_yaml, section_of
from components.common.errors import ExitCode, StageError
from components.common.launch.settings import NodeSettings, launch_command
from components.common.outputs import write_text
from components.common.stage import parse_change
from pipelines.cluster import Cluster
from pipelines.dag import Dag, Node, check_sources, read_dag
from pipelines.needs import Needs
from pipelines.revision import Code, code_of, head
from pipelines.wiring import Wiring, input_name, task_name, wire
from pipelines.workspace import ROOT, make_workspace, merged_params, recipe_file

PIPELINE = "longtake"
WIDTH = 120  # of the compiled file's lines
FINISH_NEEDS = Needs(image="data", cpu=1, memory_gib=1, timeout_h=1, cache=False)


@dataclass(frozen=True)
class Plan:
    """All that the compiled pipeline depends on."""

    dag: Dag
    wiring: dict[str, Wiring]
    params: Mapping[str, Any]
    code: dict[str, Code]
    revision: str
    cluster: Cluster

    def values(self, node: Node) -> dict[str, Any]:
        """Dotted path -> value of the parameters that the node depends on."""
        return {path: _lookup(self.params, path, node.name) for path in node.params}

    def parts(self, node: Node) -> int:
        """In how many parts the node's work is cut."""
        if node.needs.fan_out is None:
            return 1
        key = dict(self.wiring[node.name].names).popitem()[1]
        return int(section_of(self.params, node.stage, key).get(node.needs.fan_out, 1))


def plan(folder: Path, cluster: Cluster) -> Plan:
    """Read and check the workspace in `folder`; raises StageError with what is wrong and where."""
    dag = read_dag(folder)
    check_sources(dag)
    for node in dag.nodes:
        if node.needs.image not in cluster.images:
            hint = nearest(node.needs.image, list(cluster.images))
            raise StageError(f"no image '{node.needs.image}' in the cluster's settings{hint}", where=node.name)
    code = {node.name: code_of(node, folder) for node in dag.nodes}
    return Plan(dag, wire(dag, folder), read_yaml(folder / "params.yaml"), code, head(), cluster)


def compile_plan(made: Plan) -> str:
    """The pipeline as text: two YAML documents, the pipeline and what Kubernetes must know.

    Keys are sorted and kfp's comment of defaults is left out: protobuf gives mappings another order in each process,
    and the same project must compile to the same bytes.
    """
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(_pipeline(made), str(file), pipeline_name=PIPELINE)
        made_by_kfp = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    return "---\n".join(yaml.safe_dump(document, width=WIDTH) for document in made_by_kfp)


def documents(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and the platform document."""
    pipeline, platform = yaml.safe_load_all(text)
    return pipeline, platform


def inputs(made: Plan) -> dict[str, Any]:
    """The pipeline's inputs and their defaults: what may be overridden when a run is submitted."""
    values = {path: value for node in made.dag.nodes for path, value in made.values(node).items()}
    return {"git_revision": made.revision, **{input_name(path): values[path] for path in sorted(values)}}


def _pipeline(made: Plan) -> Any:
    from kfp import dsl

    from pipelines.components import FINISH, finish_component, signed
    from pipelines.platform import place

    # kfp builds no pipeline inside another: those of fanned-out stages come first
    fans = {node.name: _fan_out(made, node) for node in made.dag.nodes if made.parts(node) > 1}

    def body(given: dict[str, Any]) -> None:
        finish = finish_component(made.cluster.images[FINISH_NEEDS.image])(git_revision=given["git_revision"])
        place(finish, FINISH, FINISH_NEEDS, made.cluster)
        with dsl.ExitHandler(finish, name="pipeline"):
            tasks: dict[str, Any] = {}
            for node in made.dag.nodes:
                tasks[node.name] = _task(made, node, fans.get(node.name), tasks, given)

    defaults = inputs(made)
    ports = {name: type(value) for name, value in defaults.items()}
    return dsl.pipeline(signed(PIPELINE, "Image encoders from unlabelled video", ports, body, defaults=defaults))


def _task(made: Plan, node: Node, fan: Any, tasks: dict[str, Any], given: dict[str, Any]) -> Any:
    """The task of a node; that of a fanned-out one is a pipeline of its own, `fan`."""
    from pipelines.components import stage_component
    from pipelines.platform import place

    wiring, code = made.wiring[node.name], made.code[node.name]
    arguments = {input_name(path): given[input_name(path)] for path in node.params}
    arguments |= {link.name: tasks[link.producer].outputs[link.output] for link in wiring.links}
    arguments |= {"code_revision": code.revision, "code_hash": code.content}
    if fan is not None:
        return fan(**arguments).set_display_name(node.name)
    image = made.cluster.images[node.needs.image]
    launcher, needs = _launcher(made, node)
    task = stage_component(wiring, made.values(node), image, launcher=launcher)(**arguments)
    place(task, node.stage, needs, made.cluster)
    return task.set_display_name(node.name)


def _fan_out(made: Plan, node: Node) -> Any:
    """Parts side by side, then one task that puts them together; no launcher, a part is one process."""
    from kfp import dsl

    from pipelines.components import merge_component, signed, stage_component
    from pipelines.platform import place

    wiring, values, count = made.wiring[node.name], made.values(node), made.parts(node)
    image = made.cluster.images[node.needs.image]
    own = ["code_revision", "code_hash", *map(input_name, values)]
    (output,) = wiring.outputs
    returns = cast(Any, NamedTuple)("Outputs", [(output.flag, getattr(dsl, output.type))])

    def body(given: dict[str, Any]) -> Any:
        shared = {name: given[name] for name in own}
        links = {link.name: given[link.name] for link in wiring.links}
        items = [f"{part}/{count}" for part in range(1, count + 1)]
        with dsl.ParallelFor(items, name="parts", parallelism=made.cluster.fan_out_pods) as part:
            one = stage_component(wiring, values, image, launcher=[], part=True)(**shared, **links, part=part)
            place(one, node.stage, node.needs, made.cluster)
        merged = merge_component(wiring, values, image)(**shared, merge=dsl.Collected(one.outputs[output.flag]))
        place(merged, node.stage, node.needs, made.cluster)
        return returns(merged.outputs[output.flag])

    ports = {link.name: dsl.Input[dsl.Artifact] for link in wiring.links} | dict.fromkeys(own, str)
    ports |= {input_name(path): type(value) for path, value in values.items()}
    return dsl.pipeline(signed(task_name(node.name), node.desc, ports, body, returns=returns))


def _launcher(made: Plan, node: Node) -> tuple[list[str], Needs]:
    """The words before a stage's command where it runs in several processes, and what the pod that says them needs.

    On one node the pod itself runs them. On several, it only watches a TrainJob, and needs little.
    """
    needs, cluster = node.needs, made.cluster
    if not cluster.gpus:
        needs = needs.model_copy(update={"gpus": 0})
    if needs.nodes == 1:
        return launch_command(1, needs.gpus), needs
    settings = NodeSettings.of(cluster.model_dump(), needs.model_dump())
    watcher = {"cpu": cluster.launcher.cpu, "memory_gib": cluster.launcher.memory_gib, "gpus": 0, "shm_gib": 0}
    return launch_command(needs.nodes, needs.gpus, settings), needs.model_copy(update=watcher)


def _lookup(params: Mapping[str, Any], path: str, node: str) -> Any:
    value: Any = params
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise StageError(f"no parameter '{path}', which '{node}' depends on", where="params.yaml")
        value = value[part]
    return {} if value is None else value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("--recipe", help="a file of recipes/ (by name) or any other")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
    parser.add_argument("--cluster", type=Path, help="settings of the cluster, over pipelines/cluster.yaml")
    parser.add_argument("--out", type=Path, required=True, help="the compiled pipeline")
    args = parser.parse_args(argv)
    try:
        made = plan(workspace_of(args.recipe, args.set), Cluster.read(args.cluster))
        write_text(args.out, compile_plan(made))
    except StageError as error:
        print(f"compile: {error}", file=sys.stderr)
        return int(error.code)
    print(f"{args.out}: {len(made.dag.nodes)} tasks, {len(made.dag.edges)} edges, {len(inputs(made))} inputs")
    return int(ExitCode.OK)


def workspace_of(recipe: str | None, changes: list[str]) -> Path:
    """The project itself, or the workspace of a recipe or of changed parameters."""
    if recipe is None and not changes:
        return ROOT
    file = recipe_file(recipe) if recipe else None
    params = merged_params(file, [parse_change(text) for text in changes])
    return make_workspace(ROOT / "runs" / (file.stem if file else "sample"), params)


if __name__ == "__main__":
    raise SystemExit(main())
