"""How artifacts travel between the launching pod and the nodes of its TrainJob.

Inputs: the nodes read what the executor input names from the store, frames by range. Outputs: rank 0 writes them, whole
or not at all, to the cache that all nodes share for its checkpoints; the launching pod copies them to the place from
which Kubeflow uploads them. They stay in the cache for a week: if that upload fails, no training is repeated.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from components.common import hashing, kfp_io, outputs
from components.common.errors import ExitCode, StageError
from components.common.launch.torchrun import module_of

STORES = {"s3://": "s3://", "minio://": "s3://"}  # as Kubeflow writes an address -> as the stages read it
EXECUTOR_INPUT = "--executor-input"


@dataclass(frozen=True)
class Handover:
    """One task's command as the nodes run it, and what it leaves for the launching pod.

    Attributes:
        command: `python -m components.<stage> ...` with addresses for inputs and shared places for outputs.
        places: shared place of an output -> where the launching pod wants it.
        told: shared place of the executor output -> where Kubeflow wants it; empty outside of Kubeflow.
    """

    command: tuple[str, ...]
    places: dict[Path, Path]
    told: dict[Path, Path]

    @classmethod
    def of(cls, command: list[str], shared: Path) -> Handover:
        """Of a stage's command in the launching pod.

        Args:
            command: as Kubeflow gives it.
            shared: folder of this task in the cache that all nodes see.

        Raises:
            StageError: the stage does not say what it reads and writes, or an input lies where no node can read it.
        """
        declared = describe(module_of(command)[0])
        words, executor_input = list(command), _value(command, EXECUTOR_INPUT)
        inputs = kfp_io.input_addresses(executor_input) if executor_input else {}
        uris = {kfp_io.local_path(uri): uri for found in inputs.values() for uri in found}
        for i, (flag, value) in enumerate(pairwise(command), start=1):
            if flag.removeprefix("--") in declared["inputs"]:
                words[i] = _for_nodes(flag, value, uris)
        places, told = {}, {}
        for name in declared["outputs"]:
            if (wanted := _value(command, f"--{name}")) is not None:
                place = shared / "outputs" / name / Path(wanted).name
                places[place] = Path(wanted)
                words[words.index(f"--{name}") + 1] = str(place)
        if executor_input:
            file = kfp_io.output_file(executor_input)
            told[shared / file.name] = file
            words[words.index(EXECUTOR_INPUT) + 1] = _with_output_file(executor_input, shared / file.name)
        return cls(tuple(words), places, told)

    @property
    def made(self) -> bool:
        """Whether the nodes have left everything."""
        return all(place.exists() for place in [*self.places, *self.told])

    def collect(self) -> None:
        """Copy the outputs to their places, each whole or not at all, the executor output last.

        Raises:
            StageError: an output is missing, or changed on its way.
        """
        for shared, place in self.places.items():
            if not shared.exists():
                raise StageError("the nodes ended well, but an output is missing", where=shared, code=ExitCode.LOST)
            _copy(shared, place)
        for shared, place in self.told.items():
            outputs.write_text(place, shared.read_text(encoding="utf-8"))


def describe(module: str) -> dict[str, Any]:
    """A stage's declaration, from the stage itself."""
    asked = subprocess.run([sys.executable, "-m", module, "--describe"], capture_output=True, text=True)
    try:
        return dict(json.loads(asked.stdout))
    except ValueError:
        why = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise StageError(f"not a stage that can run on several nodes, {why}", where=module) from None


def _for_nodes(flag: str, value: str, uris: dict[str, str]) -> str:
    """`PATH` or `NAME=PATH` of this pod as an address that every node can read."""
    name, sign, path = value.partition("=")
    name, path = (name + sign, path) if path in uris else ("", value)
    address = uris.get(path, path)
    for scheme, known in STORES.items():
        if address.startswith(scheme):
            return name + known + address.removeprefix(scheme)
    raise StageError(f"the nodes cannot read '{flag}', it is in no S3 store", where=address, do="give an s3:// address")


def _value(command: list[str], flag: str) -> str | None:
    return command[command.index(flag) + 1] if flag in command[:-1] else None


def _with_output_file(executor_input: str, place: Path) -> str:
    told = json.loads(executor_input)
    told["outputs"]["outputFile"] = str(place)
    return json.dumps(told)


def _copy(shared: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = outputs.stage_path(place)
    outputs.remove(partial)
    if shared.is_dir():
        shutil.copytree(shared, partial)
    else:
        shutil.copyfile(shared, partial)
    if hashing.tree_hash(partial) != outputs.content_hash(shared):
        raise StageError("an output changed while it was copied", where=shared, do="try again", code=ExitCode.LOST)
    outputs.put_in_place(partial, place)
