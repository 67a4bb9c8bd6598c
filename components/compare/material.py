"""Reads what a run left behind: its model folder, its details tables, its pictures; and the corpus it learned from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common import hashing
from components.common.scores import Score

WEIGHTS = "encoder.safetensors"
PICTURES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
LABELS = ("class", "sequence", "joint", "name", "video", "category")  # what a row of a details table may be about
COUNTERS = ("step", "epoch", "images_seen", "pflops_seen")  # columns of the curves that only say how far a run is
DERIVED = {"jf_mean": ("j_mean", "f_mean"), "miou": ("iou",)}  # primary metric -> columns whose mean it is, per row


@dataclass(frozen=True)
class Model:
    """What models/<run> holds.

    Attributes:
        curves: column -> (steps, values) of the finite entries.
        load: the load snippet.
    """

    run: str
    config: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    sha256: str = ""
    n_weights: int = 0
    load: str = ""

    @property
    def about(self) -> dict[str, Any]:
        return dict(self.config.get("longtake", {}))

    @property
    def method(self) -> str:
        return str(self.about.get("method", self.run))


def read_model(folder: Path) -> Model:
    """Whatever of a model folder is readable; parts that are absent stay empty."""
    weights, load = folder / WEIGHTS, folder / "load.py"
    return Model(
        run=folder.name,
        config=_json(folder / "config.json"),
        figures={k: v for k, v in _json(folder / "metrics.json").items() if isinstance(v, int | float)},
        curves=read_curves(folder / "curves.csv"),
        pictures=pictures_in(folder / "pictures"),
        sha256=hashing.file_hash(weights) if weights.is_file() else "",
        n_weights=_count_weights(weights) if weights.is_file() else 0,
        load=load.read_text(encoding="utf-8") if load.is_file() else "",
    )


def read_curves(file: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Columns of a curves.csv over `step`; entries that are empty or not finite are left out."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = [name for name in (rows[0] if rows else {}) if name and name not in COUNTERS]
    columns = {name: [(_float(row.get("step")), _float(row.get(name))) for row in rows] for name in names}
    finite = {name: [(s, v) for s, v in pairs if s is not None and v is not None] for name, pairs in columns.items()}
    return {name: ([s for s, _ in pairs], [v for _, v in pairs]) for name, pairs in finite.items() if pairs}


def read_details(folder: Path, score: Score) -> dict[str, float]:
    """Label (class, sequence) -> the task's primary metric, from details.parquet; means where a label has many rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / "details.parquet").to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    label = next((name for name in LABELS if rows and name in rows[0]), None)
    columns = (score.primary,) if rows and score.primary in rows[0] else DERIVED.get(score.primary, ())
    values: dict[str, list[float]] = {}
    for row in rows if label else ():
        told = [row[name] for name in columns if isinstance(row.get(name), int | float)]
        if told and all(map(math.isfinite, told)):
            values.setdefault(str(row[label]), []).append(sum(told) / len(told))
    return {name: sum(of) / len(of) for name, of in values.items()}


def pictures_in(folder: Path) -> list[Path]:
    """Pictures that lie directly in a folder (predictions are in folders of their own), by name."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if file.suffix.lower() in PICTURES and file.is_file()]


def read_corpus(frames: Path | None, index: Path | None) -> dict[str, str]:
    """Flat facts of the frame store and the index, where they were given; nothing of single files."""
    store = _json(frames / "store.json") if frames else {}
    stats = _json(index / "stats.json") if index else {}
    told = {**{key: value for key, value in store.items() if key not in ("files", "format")}, **stats}
    return {key: f"{value:,.6g}" if isinstance(value, float) else str(value) for key, value in _flat(told).items()}


def contact_sheet(index: Path | None) -> Path | None:
    """The corpus in pictures, if the index was given and has it."""
    sheet = index / "contact_sheet.jpg" if index else None
    return sheet if sheet and sheet.is_file() else None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, str | int | float) and "sha256" not in f"{prefix}{key}":
            flat[f"{prefix}{key}"] = value
    return flat


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _count_weights(file: Path) -> int:
    """Numbers in a safetensors file, from its header alone (8 bytes of length, then JSON)."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(size)) if size <= file.stat().st_size else {}
        except (json.JSONDecodeError, UnicodeDecodeError):
            return 0
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def spread(details: Mapping[str, Mapping[str, float]], most: int) -> list[str]:
    """Labels for a chart: all if they fit, else those on which the runs differ most; best label first.

    Args:
        details: run -> label -> value.
    """
    values: dict[str, list[float]] = {}
    for of_run in details.values():
        for label, value in of_run.items():
            values.setdefault(label, []).append(value)
    kept = sorted(values, key=lambda label: (min(values[label]) - max(values[label]), label))[:most]
    return sorted(kept, key=lambda label: (-_mean(values[label]), label))


def told_apart(details: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """run -> label -> value without the labels on which every run scores 0, unless there are no others."""
    kept = {label for of_run in details.values() for label, value in of_run.items() if value}
    return {run: {k: v for k, v in of_run.items() if k in kept or not kept} for run, of_run in details.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
