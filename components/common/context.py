"""What a running stage sees: its parameters, its places, a folder that survives kills, and its tracked run."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.claims import Claim
from components.common.config import StageParams
from components.common.errors import ExitCode, StageError
from components.common.incoming import content_at
from components.common.progress import Progress
from components.common.s3.address import address_of
from components.common.tracking import Tracker

PACKAGES = Path(__file__).resolve().parent.parent  # components/
LEFT_AFTER_S = 7 * 86_400  # resumable work that nobody touched for a week; a failed pod is tried again within hours


def cache_root() -> Path:
    """Where resumable work, locks and journals live: LONGTAKE_CACHE, else .cache below the working folder."""
    return Path(os.environ.get("LONGTAKE_CACHE", ".cache"))


@dataclass
class Context:
    """Handed to a stage's `run`.

    Attributes:
        stage: name of the stage.
        keys: its keys by name (`{"method": "dino"}`).
        params: its validated parameters.
        inputs: input name -> path (None where an optional one was left out).
        places: output name -> where it will stand.
        options: name -> value of what else the command line said.
        outputs: output name -> where to write it now: an empty folder or a file path, renamed in at the end.
        keep_cache: set it to leave `cache` behind after success, for a week.
        handed_over: the outputs leave this machine only after the stage: if that fails, it is run again.
        notes: output name -> metadata of the artifact.
        contents: output name -> its content hash, where the stage knows it without reading all once more.
    """

    stage: str
    keys: dict[str, str]
    params: StageParams
    inputs: dict[str, Path | None]
    places: dict[str, Path]
    options: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    keep_cache: bool = False
    handed_over: bool = False
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=Tracker)
    _claims: dict[Path, Claim] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`pretrain@dino`, as DVC, Kubeflow and MLflow call this execution."""
        return self.stage + ("@" + "-".join(self.keys.values()) if self.keys else "")

    @property
    def title(self) -> str:
        """The name for people, with what else the command line said: `extract_frames@sample 3/8`."""
        return " ".join([self.name, *self.options.values()])

    @property
    def seed(self) -> int:
        return self.params.seed

    def input_hash(self, name: str) -> str:
        """Content hash of an input; empty for one that was left out."""
        path = self.inputs[name]
        if path is None:
            return ""
        if (address := address_of(path)) is not None:
            return content_at(address)
        if not path.exists():
            return hashing.json_hash(str(path))  # a name such as timm:vit_small_patch16_224
        return outputs.content_hash(path)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the result: parameters, options, inputs, and the code of the stage."""
        inputs = {name: self.input_hash(name) for name in self.inputs}
        code = hashing.code_hash([PACKAGES / "common", PACKAGES / self.stage])
        given = [self.params.model_dump(mode="json"), self.options]
        return hashing.json_hash([self.stage, given, inputs, code])

    @cached_property
    def cache(self) -> Path:
        """A folder for resumable work that outlives a killed process but never serves other parameters or data."""
        parts = cache_root() / self.stage / ("-".join(self.keys.values()) or "all")
        return self.claim(parts / self.fingerprint)

    def claim(self, folder: Path) -> Path:
        """Make a folder of resumable work, and keep every other process out of it until `release`.

        Raises:
            StageError: another run works there: one of equal parameters and data, on a cache that both see.
        """
        claim = Claim([folder], cache_root() / "locks")
        if folder not in self._claims:
            if not claim.take():
                raise StageError(
                    "another run is at the same work, with the same parameters and data",
                    where=folder,
                    do="wait for it, or give this one a cache of its own: LONGTAKE_CACHE",
                    code=ExitCode.BUSY,
                )
            self._claims[folder] = claim
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_cache(self) -> None:
        """Remove the resumable work of this run, unless it is to be kept, and what others left behind for good.

        Another run's work stays while it runs, and for a week after: it may have failed and be tried again.
        """
        for folder in self._claims:
            if not self.keep_cache:
                outputs.remove(folder)
        for parent in {folder.parent for folder in self._claims}:
            for other in set(parent.iterdir()) - set(self._claims):
                left = Claim([other], cache_root() / "locks")
                if untouched_s(other) > LEFT_AFTER_S and left.take():
                    outputs.remove(other)
                    left.release()

    def release(self) -> None:
        """End all claims: what this run left in its folders is for the next one."""
        while self._claims:
            self._claims.popitem()[1].release()

    def log(self, line: str) -> None:
        """One line for people."""
        print(f"[{self.title}] {line}", flush=True)

    def warn(self, line: str) -> None:
        """One line that a person should not miss."""
        print(f"[{self.title}] warning: {line}", file=sys.stderr, flush=True)

    def note(self, output: str, **metadata: Any) -> None:
        """Metadata of an output artifact (shown by Kubeflow) that is logged as the run's summary as well."""
        self.notes.setdefault(output, {}).update(metadata)
        self.tracker.params({f"{output}.{key}": value for key, value in metadata.items()})

    def progress(self, total: int, unit: str, done: int = 0) -> Progress:
        """Progress over `total` units of which `done` were finished before this process."""
        return Progress(total, unit, label=f"[{self.title}]", done=done)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Open this execution's run; close it as finished, failed or killed."""
        with self.tracker.run(self.title, uid=self._run_uid(), folder=cache_root() / "tracking", tags=self._tags()):
            self.tracker.renamed.update({self.outputs[name].absolute(): self.places[name] for name in self.outputs})
            self.tracker.params(_flat(self.params.model_dump(mode="json")))
            yield

    def _run_uid(self) -> str:
        """The same uid after a kill, so that a resumed stage goes on in the same MLflow run."""
        file = self.cache / "run_uid"
        if not file.exists():
            outputs.write_text(file, f"{self.name}-{uuid.uuid4().hex[:12]}")
        return file.read_text(encoding="utf-8")

    def _tags(self) -> dict[str, str]:
        inputs = {f"input.{name}": self.input_hash(name) for name, path in self.inputs.items() if path is not None}
        params = hashing.json_hash(self.params.model_dump(mode="json"))
        return {"stage": self.stage, **self.keys, **self.options, "params_hash": params, **inputs}


def untouched_s(folder: Path) -> float:
    """Seconds since anything was written into a folder or directly below it; 0 for one that vanishes meanwhile."""
    try:
        return time.time() - max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
    except OSError:
        return 0.0


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
