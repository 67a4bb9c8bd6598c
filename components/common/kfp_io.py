"""What Kubeflow Pipelines hands a container, and what it wants back.

The backend replaces the argument `{{$}}` by the executor input; a container that writes `executor_output.json` gives
its artifacts metadata, and only then do they survive local runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from components.common.outputs import write_text

MOUNTS = {
    "gs://": "/gcs/",
    "minio://": "/minio/",
    "s3://": "/s3/",
}  # where the launcher puts an artifact of this scheme


def input_paths(executor_input: str, name: str) -> list[str]:
    """Where the artifacts of a list input lie in this container; empty when the task has no such input.

    A command has a placeholder for one artifact only: for a list it gives the first. The executor input names them all,
    and Kubeflow's launcher has put each at the place its address stands for (in a local run the address is the place).

    Args:
        executor_input: the JSON that Kubeflow passed.
        name: of the input.

    Raises:
        StageError: this is no executor input.
    """
    return [local_path(uri) for uri in input_addresses(executor_input).get(name, [])]


def input_addresses(executor_input: str) -> dict[str, list[str]]:
    """Name of an input -> addresses of its artifacts; StageError where this is no executor input."""
    artifacts = _part(executor_input, "inputs").get("artifacts", {})
    try:
        return {name: [one["uri"] for one in entry.get("artifacts", [])] for name, entry in artifacts.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise _not_an_executor_input(error) from None


def output_file(executor_input: str) -> Path:
    """Where Kubeflow wants the executor output; StageError where this is no executor input."""
    try:
        return Path(_part(executor_input, "outputs")["outputFile"])
    except (KeyError, TypeError) as error:
        raise _not_an_executor_input(error) from None


def local_path(uri: str) -> str:
    """Where Kubeflow's launcher puts the artifact of an address."""
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    if uri.startswith("oci://"):  # a model image, mounted whole under its name
        return "/oci/" + uri.removeprefix("oci://").replace("/", "_") + "/models"
    return uri


def write_executor_output(executor_input: str, notes: dict[str, dict[str, Any]]) -> None:
    """Write executor_output.json.

    Args:
        executor_input: the JSON that Kubeflow passed.
        notes: output name -> metadata of its artifact.
    """
    place, artifacts = output_file(executor_input), _part(executor_input, "outputs").get("artifacts", {})
    described = {name: {"artifacts": [_with_metadata(entry, notes.get(name, {}))]} for name, entry in artifacts.items()}
    write_text(place, json.dumps({"artifacts": described}, sort_keys=True))


def _with_metadata(entry: dict[str, Any], note: dict[str, Any]) -> dict[str, Any]:
    artifact = dict(entry["artifacts"][0])
    artifact["metadata"] = {**artifact.get("metadata", {}), **note}
    return artifact


def _part(executor_input: str, part: str) -> dict[str, Any]:
    """`inputs` or `outputs`; what is empty Kubeflow leaves out."""
    try:
        found = json.loads(executor_input).get(part, {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise _not_an_executor_input(error) from None
    if not isinstance(found, dict):
        raise _not_an_executor_input(TypeError(f"'{part}' is no mapping"))
    return found


def _not_an_executor_input(error: Exception) -> StageError:
    return StageError(f"not an executor input of Kubeflow Pipelines: {error}", where="--executor-input")
