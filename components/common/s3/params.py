"""How a store is read and written. These decide how fast and how patiently, never what comes out."""

from __future__ import annotations

import os

import yaml
from pydantic import Field, model_validator

from components.common.config import Params, parse
from components.common.errors import StageError

MIB, GIB = 2**20, 2**30
VARIABLE = "LONGTAKE_S3"


class S3Params(Params):
    """Settings of a machine, not of a result: they come from LONGTAKE_S3 (`{cache_gib: 200, block_mib: 4}`), which
    loader workers and torchrun's processes inherit, and changing them makes no stage run again. Address and credentials
    of the store come from where boto3 looks for them (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)."""

    endpoint_url: str | None = Field(None, description="any S3-speaking server; default: as boto3 finds it")
    region: str | None = None
    timeout_s: float = Field(60.0, gt=0, description="longest silence of the store")
    retries: int = Field(8, ge=0, description="tries after the first; about two minutes with the waits below")
    backoff_s: float = Field(1.0, ge=0, description="longest wait before the first retry; doubles each time")
    backoff_max_s: float = Field(60.0, ge=0, description="longest wait before any retry")
    part_mib: int = Field(
        16, ge=5, le=5120, description="objects are moved in parts of this size; S3 takes no less than 5"
    )
    workers: int = Field(8, ge=1, le=64, description="parts or objects in flight")
    block_mib: float = Field(1.0, ge=1 / 16, le=64, description="ranged reads fetch and keep blocks of this size")
    cache_gib: float = Field(20.0, gt=0, description="blocks kept on disk; as much again for whole copies")

    @model_validator(mode="after")
    def _some_blocks_fit(self) -> S3Params:
        if self.cache_bytes < 16 * self.block_bytes:
            raise ValueError(f"cache_gib {self.cache_gib:g} holds fewer than 16 blocks of {self.block_mib:g} MiB")
        return self

    @property
    def part_bytes(self) -> int:
        return self.part_mib * MIB

    @property
    def block_bytes(self) -> int:
        return round(self.block_mib * MIB)

    @property
    def cache_bytes(self) -> int:
        return round(self.cache_gib * GIB)

    @classmethod
    def of_environment(cls) -> S3Params:
        """The settings in LONGTAKE_S3, a YAML or JSON mapping; StageError where it is none or holds a wrong key."""
        try:
            section = yaml.safe_load(os.environ.get(VARIABLE, "") or "{}")
        except yaml.YAMLError as error:
            raise StageError(f"not readable as YAML, {' '.join(str(error).split())}", where=VARIABLE) from None
        if not isinstance(section, dict):
            raise StageError("expected a mapping such as {cache_gib: 200}", where=VARIABLE)
        return parse(cls, section, VARIABLE)
