"""Parameters of promote: which encoder becomes a candidate, and what it must show to become the champion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from components.common.config import Params, StageParams


class Gate(Params):
    """One task on which the candidate meets its opponent.

    Margins are absolute, in the metric's own unit (0.01 of a share is one point); a gain counts in the direction that
    is better for the metric.
    """

    metric: str | None = Field(None, description="name of a metric of the task; its primary metric if left out")
    margin: float = Field(0.0, ge=0, description="in the metric's unit")


class PromoteParams(StageParams):
    """Section `promote` of params.yaml."""

    model: str = Field("longtake-encoder", min_length=1, pattern=r"^[\w .-]+$", description="registered model")
    rank_by: list[str] = Field(min_length=1, description="tasks whose mean rank chooses the candidate")
    must_beat: dict[str, Gate] = Field(
        {}, description="better than the champion by more than 0 and at least the margin"
    )
    must_not_lose: dict[str, Gate] = Field({}, description="not worse than the champion by more than the margin")
    require_above: dict[str, Gate] = Field({}, description="better than the baseline run, champion or not")
    baseline: str | None = Field("random", description="run that stands in while there is no champion")
    exclude: list[str] = Field([], description="runs that are never candidates")
    when_not_comparable: Literal["keep", "baseline"] = Field(
        "keep",
        description="champion measured otherwise (protocol, data, constants): keep it, or judge against the baseline",
    )

    @field_validator("rank_by")
    @classmethod
    def _no_task_twice(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task is named twice")
        return tasks
