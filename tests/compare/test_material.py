"""Reading what runs left behind, whole or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from components.common.scores import Score, read_cells
from components.compare import material

Finished = Any  # tests/compare/conftest.py


def score(primary: str) -> Score:
    known = {"method": "m", "task": "t", "protocol": "p", "primary": primary, "metrics": {primary: 0.5}}
    return Score(**known, encoder_sha256="x", benchmark_hash="b", data_variant="d")


def test_curves_leave_out_what_is_empty_or_not_finite(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    file.write_text("step,epoch,loss,rankme\n0,0,1.5,\n10,1,nan,3\n20,2,0.5,x\n")
    assert material.read_curves(file) == {"loss": ([0.0, 20.0], [1.5, 0.5]), "rankme": ([10.0], [3.0])}
    file.write_text("step\n")
    assert material.read_curves(file) == {} == material.read_curves(tmp_path / "none.csv")


def test_details_by_class_and_by_sequence(tmp_path: Path) -> None:
    def write(rows: list[dict[str, Any]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "details.parquet")

    write([{"class": "cat", "top1": 0.5, "n": 3}, {"class": "dog", "top1": None, "n": 0}])
    assert material.read_details(tmp_path, score("top1")) == {"cat": 0.5}
    write([{"sequence": "a", "object": o, "j_mean": 0.2 * o, "f_mean": 0.4 * o} for o in (1, 2)])
    assert math.isclose(material.read_details(tmp_path, score("jf_mean"))["a"], (0.3 + 0.6) / 2)
    write([{"class": "0", "iou": 0.5}, {"class": "1", "iou": float("nan")}])
    assert material.read_details(tmp_path, score("miou")) == {"0": 0.5}
    assert material.read_details(tmp_path, score("unheard_of")) == {}
    (tmp_path / "details.parquet").write_bytes(b"torn")
    assert material.read_details(tmp_path, score("miou")) == {}


def test_weights_are_counted_from_the_header(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, tmp_path / "encoder.safetensors", {"format": "pt"})
    assert material.read_model(tmp_path).n_weights == 17
    (tmp_path / "encoder.safetensors").write_bytes(b"\xff" * 20)
    assert material.read_model(tmp_path).n_weights == 0


def test_an_empty_model_folder_is_no_error(tmp_path: Path) -> None:
    model = material.read_model(tmp_path)
    assert (model.config, model.curves, model.pictures, model.sha256) == ({}, {}, [], "")


def test_chart_keeps_the_rows_that_differ_most() -> None:
    details = {"a": {"x": 0.1, "y": 0.5, "z": 0.9}, "b": {"x": 0.1, "y": 0.9, "z": 0.6}}
    assert material.spread(details, 5) == ["z", "y", "x"]
    assert material.spread(details, 2) == ["z", "y"]
    assert material.spread(details, 1) == ["y"]


def test_metrics_files_that_are_no_use_say_why(finished: Finished) -> None:
    folder = finished.metrics
    (folder / "dino-knn.json").write_text("[]")
    (folder / "dino-vos.json").write_text('{"error": "no such benchmark"}')
    (folder / "nodash.json").write_text("{}")
    (folder / "dora-knn.json").write_text((folder / "dora-vos.json").read_text())
    (folder / "dora-vos.json").write_text((folder / "random-vos.json").read_text().replace("0.402", "NaN"))
    reasons = {(cell.run, cell.task): cell.reason for cell in read_cells(folder) if cell.score is None}
    assert reasons["dino", "knn"] == "expected a JSON object: dino-knn.json"
    assert reasons["dino", "vos"] == "no such benchmark"
    assert reasons["nodash", "nodash"] == "not named <run>-<task>.json: nodash.json"
    assert reasons["dora", "knn"] == "holds task 'vos': dora-knn.json"
    assert "finite number" in reasons["dora", "vos"]


def test_labels_on_which_all_score_nothing_are_left_out() -> None:
    details = {"a": {"cat": 0.5, "dog": 0.0, "cow": 0.0}, "b": {"cat": 0.0, "dog": 0.0}}
    assert material.told_apart(details) == {"a": {"cat": 0.5}, "b": {"cat": 0.0}}
    assert material.told_apart({"a": {"dog": 0.0}}) == {"a": {"dog": 0.0}}  # a chart of zeros says more than none
