"""The figures that a forecast rests on: forecast.yaml, checked, each with how it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.common.config import Params, deep_merge, parse, read_yaml

DEFAULTS = Path(__file__).parent.with_name("forecast.yaml")
LEAF = {"value", "how", "source"}  # keys of one figure in the file

How = Literal["measured", "exact", "derived", "cited", "assumed"]


class Figure(Params):
    """One figure as the file holds it."""

    value: float = Field(ge=0)
    how: How
    source: str = Field(min_length=3)


class Machine(Params):
    start_data_s: float
    start_train_s: float
    pod_start_s: float
    hash_bytes_per_s: float = Field(gt=0)
    copy_bytes_per_s: float = Field(gt=0)


class World(Params):
    draw_px_per_s: float = Field(gt=0)
    still_px_per_s: float = Field(gt=0)
    clip_s: float
    video_bytes_per_px: float
    still_bytes_per_px: float


class Source(Params):
    width_px: float
    height_px: float
    fps: float = Field(gt=0)
    bytes_per_s: float
    cuts_per_s: float
    keyframe_s: float = Field(gt=0)


class Extract(Params):
    video_core_s: float
    source_frame_core_s: float
    source_px_per_s: float = Field(gt=0)
    keyframe_speed_up: float = Field(gt=0)
    frame_core_s: float
    frame_px_per_s: float = Field(gt=0)
    assemble_frame_s: float
    jpeg_bytes_per_px: float
    jpeg_bytes_side_exponent: float
    jpeg_bytes_quality_exponent: float
    table_bytes_per_frame: float
    table_bytes_per_video: float
    memory_bytes: float
    memory_bytes_per_video: float
    memory_bytes_per_queued: float


class Index(Params):
    read_frame_s: float
    draw_row_s: float
    video_s: float
    fingerprint_core_s: float
    fingerprint_px_per_s: float = Field(gt=0)
    pairs_per_s: float = Field(gt=0)
    finish_s: float
    memory_bytes: float
    memory_bytes_per_frame: float
    memory_bytes_per_video: float
    draw_bytes: float
    draw_bytes_per_k: float


class Loader(Params):
    decode_px_per_s: float = Field(gt=0)
    view_px_per_s: float = Field(gt=0)
    view_core_s: float
    frame_core_s: float
    worker_bytes: float
    prefetch_batches: float
    orders_held: float


class Train(Params):
    cpu_flops: float = Field(gt=0)
    step_core_s: float
    process_bytes: float


class Judge(Params):
    picture_core_s: float
    picture_px_per_s: float = Field(gt=0)
    affinities_per_s: float = Field(gt=0)
    probe_px_per_s: float = Field(gt=0)
    finish_s: float


class Device(Params):
    peak_flops: float = Field(gt=0)
    share_compiled: float = Field(gt=0, le=1)
    share_eager: float = Field(gt=0, le=1)


class Benchmark(Params):
    train_pictures: float
    pictures: float
    width_px: float
    height_px: float
    bytes: float


class Rates(Params):
    """All figures; `sources` says of each, by its dotted name, how it is known."""

    machine: Machine
    world: World
    source: Source
    extract: Extract
    index: Index
    loader: Loader
    train: Train
    judge: Judge
    report_s: float
    devices: dict[str, Device]
    benchmarks: dict[str, Benchmark]
    sources: dict[str, Figure] = Field(default_factory=dict)


def read_rates(changes: list[dict[str, Any]] | None = None, file: Path | None = None) -> Rates:
    """forecast.yaml, another file's figures over it, then single changes (plain numbers, known as `assumed`).

    Raises:
        StageError: a figure is missing, unknown, negative, or does not say how it is known.
    """
    document = read_yaml(DEFAULTS)
    if file is not None:
        document = deep_merge(document, read_yaml(file))
    for change in changes or []:
        document = deep_merge(document, _as_figures(change))
    figures = {name: parse(Figure, leaf, f"{DEFAULTS.name}, {name}") for name, leaf in _leaves(document)}
    return parse(Rates, {**_values(document), "sources": figures}, DEFAULTS.name)


def _as_figures(change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _as_figures(value)
        if isinstance(value, Mapping)
        else {"value": value, "how": "assumed", "source": "command line"}
        for key, value in change.items()
    }


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in document.items():
        if _is_leaf(value):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with each figure replaced by its number."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found[key] = value["value"] if _is_leaf(value) else _values(value) if isinstance(value, Mapping) else value
    return found
