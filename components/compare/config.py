"""Parameters of compare: what the page shows and how much of it."""

from __future__ import annotations

from pydantic import Field

from components.common.config import StageParams


class CompareParams(StageParams):
    """Section `compare` of params.yaml."""

    baseline: str = Field("random", description="run that differences are taken to")
    methods: list[str] = Field([], description="rows expected besides those found; one without metrics is shown so")
    tasks: list[str] = Field([], description="columns expected besides those found, in this order")
    registered_model: str = Field("longtake-encoder", min_length=1, description="as in promote.model")
    title: str = Field("Image encoders from unlabelled video", min_length=1)
    pictures_per_task: int = Field(6, ge=0, description="pictures of one task shown side by side")
    picture_max_kib: float = Field(2048, gt=0, description="larger pictures stay in the results folder")
    page_max_mib: float = Field(48, gt=0, description="pictures beyond this total are named, not shown")
    chart_rows: int = Field(30, gt=0, description="classes or sequences in one chart; those that differ most are kept")
    curves: int = Field(12, ge=0, description="learning curves shown")
    png_dpi: int = Field(150, gt=0, description="resolution of the plots as PNG")
