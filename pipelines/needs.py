"""What a stage's `meta` in dvc.yaml asks of a cluster, checked."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from components.common.config import Params, parse


class Needs(Params):
    """One pod of a stage (each node of it, where there are several).

    `fan_out` names the stage's parameter that says in how many parts its work is cut; each part becomes a pod.
    """

    image: str
    cpu: float = Field(gt=0, description="cores")
    memory_gib: float = Field(gt=0)
    shm_gib: float = Field(0, ge=0, description="of the memory, as /dev/shm for loader workers")
    gpus: int = Field(0, ge=0, description="on each node")
    nodes: int = Field(1, ge=1)
    accelerator: str | None = Field(None, description="Kubernetes' resource name, such as nvidia.com/gpu")
    timeout_h: float = Field(gt=0)
    cache: bool = Field(True, description="an equal execution may be taken from Kubeflow's cache")
    fan_out: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gpus and self.accelerator is None:
            raise ValueError("gpus need an accelerator, such as nvidia.com/gpu")
        if self.shm_gib >= self.memory_gib:
            raise ValueError("shm_gib counts against memory_gib and must be smaller")
        return self


def parse_needs(name: str, meta: dict[str, Any]) -> Needs:
    """The needs of stage `name`; raises StageError that names a missing, unknown or impossible key."""
    return parse(Needs, meta, f"dvc.yaml, {name}, meta")
