"""Where the artifacts of a run lie in the store: `<pipeline root>/<pipeline>/<run>/<task>/<random id>/<output>`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from components.common.errors import StageError
from components.common.outputs import MARKER
from components.common.s3.artifact import Artifact
from components.common.s3.store import Store
from pipelines.submit.api import Json, Kfp
from pipelines.submit.provenance import Execution, executions
from pipelines.submit.watch import documents_of

EARLIER_RUNS = 200  # so many are searched for the one that a cached task was taken from


@dataclass
class Finder:
    """Finds what tasks have made, also where Kubeflow took them from an earlier run.

    Args:
        api: knows the runs.
        store: holds the artifacts.
        root: the pipeline root of runs that name none.
    """

    api: Kfp
    store: Store
    root: str
    _documents: dict[str, list[Json]] = field(default_factory=dict)
    _earlier: list[tuple[Json, dict[str, Execution]]] | None = None

    def documents(self, run: Json) -> list[Json]:
        """The compiled pipeline of a run; asked of the server once for each version."""
        version = str((run.get("pipeline_version_reference") or {}).get("pipeline_version_id") or run["run_id"])
        if version not in self._documents:
            self._documents[version] = documents_of(self.api, run)
        return self._documents[version]

    def executions(self, run: Json) -> dict[str, Execution]:
        """What the tasks of a run were made of."""
        return executions(self.documents(run), (run.get("runtime_config") or {}).get("parameters") or {})

    def find(self, run: Json, made: Execution, output: str, cached: bool, uris: dict[str, str]) -> Artifact | None:
        """An output of a task; None where it is not, or not whole, in the store.

        Args:
            run: the run.
            made: the task's execution.
            output: its name.
            cached: it was taken from an earlier run, whose id the server of 2.17 does not tell.
            uris: addresses that the server told, by output.
        """
        if output in uris:
            return self._whole(uris[output])
        for source in self._same(run, made) if cached else [run]:
            folder, name = made.outputs[output]
            if (found := self._newest(f"{self._place(source)}/{folder}/", name)) is not None:
                return found
        return None

    def _place(self, run: Json) -> str:
        root = str((run.get("runtime_config") or {}).get("pipeline_root") or self.root).rstrip("/")
        return f"{root}/{self.documents(run)[0]['pipelineInfo']['name']}/{run['run_id']}"

    def _same(self, run: Json, made: Execution) -> Iterator[Json]:
        """Other runs, newest first, that carry out an equal execution."""
        if self._earlier is None:
            self._earlier = list(self._readable(str(run["run_id"])))
        for other, theirs in self._earlier:
            if any(one.fingerprint == made.fingerprint for one in theirs.values()):
                yield other

    def _readable(self, but: str) -> Iterator[tuple[Json, dict[str, Execution]]]:
        for other in self.api.runs(EARLIER_RUNS):
            if str(other["run_id"]) != but:
                try:
                    yield other, self.executions(other)
                except (StageError, KeyError):  # its version was deleted, or it is none of our pipelines
                    continue

    def _newest(self, prefix: str, output: str) -> Artifact | None:
        """Attempts have folders of their own; one that was killed while it sent leaves a part."""
        tails = (obj.address.removeprefix(prefix).split("/") for obj in self.store.listing(prefix))
        places = sorted({tail[0] for tail in tails if len(tail) > 1 and tail[1] == output})
        whole = [found for place in places if (found := self._whole(f"{prefix}{place}/{output}")) is not None]
        return max(whole, key=self._written) if len(whole) > 1 else next(iter(whole), None)

    def _whole(self, address: str) -> Artifact | None:
        """The artifact at an address, if it is a file, or a folder that its marker says is whole."""
        try:
            found = Artifact.find(self.store, address)
        except StageError as error:
            if error.what.startswith(("nothing at this", "not whole")):
                return None
            raise
        return found if "" in found.objects or self._marked(found) == found.content else None

    def _marked(self, found: Artifact) -> str:
        """The hash in a folder's marker: `Artifact` falls back to another where the marker does not fit."""
        try:
            return str(json.loads(self.store.read(found.objects[MARKER]))["content"])
        except (KeyError, ValueError, TypeError):
            return ""

    def _written(self, found: Artifact) -> Any:
        obj = found.objects.get("") or found.objects[MARKER]
        return self.store.call(obj.address, "head_object", Bucket=obj.bucket, Key=obj.key)["LastModified"]
