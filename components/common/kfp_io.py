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


def write_executor_output(executor_input: str, notes: dict[str, dict[str, Any]]) -> None:
    """Write executor_output.json.

    Args:
        executor_input: the JSON that Kubeflow passed.
        notes: output name -> metadata of its artifact.
    """
    try:
        declared = json.loads(executor_input)["outputs"]
        place = Path(declared["outputFile"])
        artifacts = declared.get("artifacts", {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise StageError(f"not an executor input of Kubeflow Pipelines: {error}", where="--executor-input") from None
    described = {name: {"artifacts": [_with_metadata(entry, notes.get(name, {}))]} for name, entry in artifacts.items()}
    write_text(place, json.dumps({"artifacts": described}, sort_keys=True))


def _with_metadata(entry: dict[str, Any], note: dict[str, Any]) -> dict[str, Any]:
    artifact = dict(entry["artifacts"][0])
    artifact["metadata"] = {**artifact.get("metadata", {}), **note}
    return artifact
