"""Kubeflow container components from wirings.

kfp reads a component from a Python function's signature; the signatures here are made from the DAG, one for each node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from pipelines.wiring import Wiring, identifier, input_name, task_name

EXECUTOR_INPUT = "{{$}}"  # Kubeflow puts the executor input here: places, uris and parameters of the task, as JSON
FINISH = "finish"  # the exit task
Build = Callable[[dict[str, Any]], dsl.ContainerSpec]


def signed(
    name: str,
    doc: str,
    ports: Mapping[str, Any],
    body: Callable[[dict[str, Any]], Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    returns: Any = None,
) -> Callable[..., Any]:
    """A function with a signature made at run time, as kfp's decorators want it.

    Args:
        name, doc: of the function.
        ports: argument -> annotation.
        body: is handed the arguments by name.
        defaults: argument -> default.
        returns: annotation of the result.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = dict.fromkeys(ports, inspect.Parameter.empty) | dict(defaults or {})
    parameters = [inspect.Parameter(port, kind, default=default[port], annotation=ports[port]) for port in ports]

    def function(*given: Any) -> Any:
        return body(dict(zip(ports, given, strict=True)))

    function.__name__, function.__doc__ = identifier(name), doc
    function.__annotations__ = {**ports, "return": returns} if returns is not None else dict(ports)
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=inspect.Signature.empty if returns is None else returns
    )
    return function


def component(name: str, desc: str, ports: Mapping[str, Any], build: Build) -> Any:
    """A container component with the inputs and outputs `ports` (name -> kfp annotation)."""
    return dsl.container_component(signed(name, desc, ports, build))


def stage_component(
    wiring: Wiring, params: Mapping[str, Any], image: str, *, launcher: list[str], part: bool = False
) -> Any:
    """One node's component; with `part`, that of one part of a fanned-out stage.

    Args:
        wiring: of the node.
        params: dotted path in params.yaml -> value, of what the node depends on.
        image: name of the container image.
        launcher: words before `python -m components.<stage>` (several processes or nodes), often none.
        part: adds the input `part` and the flag `--part`.
    """
    ports: dict[str, Any] = {"code_revision": str, "code_hash": str}
    ports |= {input_name(path): type(value) for path, value in params.items()}
    ports |= {"part": str} if part else {}
    ports |= {link.name: dsl.Input[dsl.Artifact] for link in wiring.links}
    ports |= output_ports(wiring)

    def build(given: dict[str, Any]) -> dsl.ContainerSpec:
        args = [word for link in wiring.links for word in (f"--{link.flag}", _artifact(link.member, given[link.name]))]
        args += ["--part", given["part"]] if part else []
        return _spec(wiring, params, image, launcher, args, given)

    name = f"{task_name(wiring.node.name)}-part" if part else task_name(wiring.node.name)
    return component(name, wiring.node.desc, ports, build)


def merge_component(wiring: Wiring, params: Mapping[str, Any], image: str) -> Any:
    """The component that puts the parts of a fanned-out stage together.

    The list of parts has no place in a command: the stage finds it in the executor input.
    """
    ports: dict[str, Any] = {"code_revision": str, "code_hash": str}
    ports |= {input_name(path): type(value) for path, value in params.items()}
    ports |= {"merge": dsl.Input[list[dsl.Artifact]], **output_ports(wiring)}

    def build(given: dict[str, Any]) -> dsl.ContainerSpec:
        return _spec(wiring, params, image, [], [], given)

    return component(f"{task_name(wiring.node.name)}-merge", wiring.node.desc, ports, build)


def finish_component(image: str) -> Any:
    """The exit task: tells MLflow how the pipeline ended, whatever happened."""
    ports = {"status": dsl.PipelineTaskFinalStatus, "git_revision": str}

    def build(given: dict[str, Any]) -> dsl.ContainerSpec:
        command = ["python", "-m", "components.common.tracking", FINISH]
        args = ["--status", str(given["status"]), "--revision", given["git_revision"]]
        return dsl.ContainerSpec(image=image, command=command, args=args)

    return component(FINISH, "Record in MLflow how the pipeline ended", ports, build)


def output_ports(wiring: Wiring) -> dict[str, Any]:
    return {output.flag: dsl.Output[getattr(dsl, output.type)] for output in wiring.outputs}


def _artifact(member: str, artifact: Any) -> str:
    return f"{member}={artifact.path}" if member else artifact.path


def _spec(
    wiring: Wiring,
    params: Mapping[str, Any],
    image: str,
    launcher: list[str],
    args: list[str],
    given: dict[str, Any],
) -> dsl.ContainerSpec:
    names = [word for flag, value in wiring.names for word in (f"--{flag}", value)]
    outputs = [word for output in wiring.outputs for word in (f"--{output.flag}", given[output.flag].path)]
    values = [word for path in params for word in ("--param", f"{path}={given[input_name(path)]}")]
    command = [*launcher, "python", "-m", f"components.{wiring.node.stage}"]
    args = [*names, *args, *outputs, *values, "--executor-input", EXECUTOR_INPUT]
    return dsl.ContainerSpec(image=image, command=command, args=args)
