"""What evaluate writes and compare and promote read: one run's result on one task.

Two results may be compared only if they were measured in the same way on the same data (`Score.setting`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from components.common import hashing
from components.common.config import Params, parse
from components.common.errors import StageError


class Score(Params):
    """One metrics file.

    Attributes:
        method: the pretraining run, as models/ names its folder.
        task: name of the evaluation.
        protocol: name of the published procedure followed.
        metrics: finite values by name; shares are in [0, 1].
        primary: the metric that ranks.
        encoder_sha256: of the weights measured.
        benchmark_hash: content hash of the benchmark.
        params: every other constant of the evaluation.
        data_variant: which variant of the data (`sample`, `davis2017-val`, ...).
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)  # evaluate may say more

    method: str
    task: str
    protocol: str
    metrics: dict[str, float] = Field(min_length=1)
    primary: str
    higher_is_better: bool = True
    encoder_sha256: str
    benchmark_hash: str
    seed: int = 0
    params: dict[str, Any] = Field(default_factory=dict)
    data_variant: str

    @model_validator(mode="after")
    def _primary_is_there(self) -> Score:
        if self.primary not in self.metrics:
            raise ValueError(f"primary metric '{self.primary}' is not among the metrics")
        return self

    @property
    def value(self) -> float:
        """The primary metric."""
        return self.metrics[self.primary]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that must agree before two scores may be compared."""
        own = {"protocol": self.protocol, "data": self.data_variant, "benchmark": self.benchmark_hash}
        return {**own, "primary metric": self.primary, **{f"params.{key}": v for key, v in self.params.items()}}

    @cached_property
    def setting(self) -> str:
        """Hash of `facts`."""
        return hashing.json_hash(self.facts)

    def differences(self, other: Score) -> str:
        """In words, how `other` was measured differently; empty where the two are comparable."""
        keys = [k for k in {**self.facts, **other.facts} if self.facts.get(k) != other.facts.get(k)]
        return ", ".join(f"{k} {self.facts.get(k)} against {other.facts.get(k)}" for k in sorted(keys))


@dataclass(frozen=True)
class Cell:
    """One run on one task: a score, or the reason why there is none."""

    run: str
    task: str
    score: Score | None = None
    reason: str = ""


def read_cells(folder: Path) -> list[Cell]:
    """Every `<run>-<task>.json` of a folder, in order of name; an unusable file becomes a cell with its reason."""
    return [_read(file) for file in sorted(folder.glob("*.json"))]


def _read(file: Path) -> Cell:
    run, _, task = file.stem.rpartition("-")  # a run's name may hold '-', a task's never does
    try:
        if not run:
            raise StageError("not named <run>-<task>.json", where=file.name)
        score = parse(Score, _mapping(file), file.name)
        if score.task != task:
            raise StageError(f"holds task '{score.task}'", where=file.name)
    except StageError as error:
        return Cell(run or file.stem, task, reason=str(error))
    return Cell(run, task, score)


def _mapping(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise StageError(f"not readable as JSON, {error}", where=file.name) from None
    if not isinstance(value, dict):
        raise StageError("expected a JSON object", where=file.name)
    if "error" in value:  # an evaluation that failed and says why
        raise StageError(str(value["error"]))
    return value
