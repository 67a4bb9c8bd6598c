"""The task end to end: figures against a literal reading of the written maps, both protocols, the command on files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.common.scores import read_cells
from components.evaluate.score_cli import score_main
from components.evaluate.tasks import voc_clustering
from components.evaluate.tasks.voc_clustering import Args, _arguments, _score
from tests.evaluate.small import evaluate, voc, write_labels
from tests.evaluate.test_matching import best_matchings, naive_miou

TASK = "voc_clustering"


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def read(root: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and clusters of all pictures, void left out."""
    labels, clusters = [], []
    for file in sorted(folder.glob("*.png")):
        clusters.append(np.array(Image.open(file)).astype(int).ravel())
        mask = Image.open(root / "SegmentationClass" / file.name)
        labels.append(np.array(mask.resize((20, 20), Image.Resampling.NEAREST)).astype(int).ravel())
    truth, seen = np.concatenate(labels), np.concatenate(clusters)
    return truth[truth != 255], seen[truth != 255]


def test_figures_are_the_rule_read_literally(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b", n_val=5)
    assert evaluate(tmp_path, TASK, model, root) == 0
    found, means = result(tmp_path), {}
    for k in (4, 12):
        values = []
        for seed in (0, 1):
            truth, clusters = read(root, tmp_path / f"out/clusters/k{k}_seed{seed}")
            assert len(np.unique(clusters)) <= k
            if k == 4:
                possible = best_matchings(truth, clusters, [0, 1, 2, 3], 4)
                assert len(possible) == 1
                values.append(naive_miou(truth, possible[0], [0, 1, 2, 3]))
            else:
                predicted = np.array([np.bincount(truth[clusters == c], minlength=4).argmax() for c in range(k)])[
                    clusters
                ]
                values.append(naive_miou(truth, predicted, [0, 1, 2, 3]))
        means[k] = np.mean(values)
        assert found["metrics"][f"miou_k{k}"] == pytest.approx(means[k])
        assert found["metrics"][f"miou_k{k}_std"] == pytest.approx(np.std(values))
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["class"] for row in rows] == ["0", "1", "2", "3"]
    assert np.mean([row["miou_k12"] for row in rows]) == pytest.approx(means[12])
    assert found["primary"] == "miou_k4" and found["protocol"].startswith("leopart clustering of patches, input 32")
    with Image.open(tmp_path / "out/clusters.png") as picture:
        assert picture.width > 500
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics/untrained-voc_clustering.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None, cell.reason


def test_patches_are_constant_in_their_cells_and_pixels_are_not(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, clusters=[4]) == 0
    assert evaluate(tmp_path, TASK, model, root, out="pixels", clusters=[4], cluster_on="pixels") == 0
    cells = []
    for out in ("out", "pixels"):
        maps = [np.array(Image.open(f)) for f in sorted((tmp_path / out / "clusters/k4_seed0").glob("*.png"))]
        blocks = np.stack(maps).reshape(3, 4, 5, 4, 5)  # 4 x 4 cells of 5 x 5 pixels
        cells.append((blocks == blocks[:, :, :1, :, :1]).all())
    assert cells == [True, False]


def test_files_score_the_same(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, kmeans_seeds=[3]) == 0
    for k, how in ((4, "hungarian"), (12, "greedy")):
        argv = ["score", "--gt", str(root / "SegmentationClass"), "--pred", str(tmp_path / f"out/clusters/k{k}_seed3")]
        argv += ["--num-classes", "4", "--match", how, "--json", str(tmp_path / "s.json")]
        assert score_main(TASK, "", _arguments, _score, argv) == 0
        assert (
            json.loads((tmp_path / "s.json").read_text())["metrics"]["miou"]
            == result(tmp_path)["metrics"][f"miou_k{k}"]
        )
    write_labels(tmp_path / "out/clusters/k12_seed3/other.png", np.zeros((20, 20)))
    assert score_main(TASK, "", _arguments, _score, argv) == 2
    assert "no such picture" in capsys.readouterr().err


def test_killed_and_repeated_to_the_byte(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, out="whole") == 0
    shutil.rmtree(tmp_path / "cache")
    score = voc_clustering.score_maps
    calls: list[int] = []

    def stop_later(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*args)

    with monkeypatch.context() as patch:
        patch.setattr(voc_clustering, "score_maps", stop_later)
        assert evaluate(tmp_path, TASK, model, root) == 130
    assert len(list((tmp_path / "cache/evaluate").rglob("clusters/*_seed*"))) == 3
    assert evaluate(tmp_path, TASK, model, root) == 0
    assert result(tmp_path) == result(tmp_path, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_protocols_are_the_published_ones() -> None:
    leopart, timet = Args.model_validate({}), Args.model_validate({"protocol": "timet"})
    assert (leopart.input_px, leopart.map_px, leopart.niter, leopart.nredo, leopart.pca_dims) == (448, 100, 100, 5, 50)
    assert (leopart.clusters, len(leopart.kmeans_seeds), leopart.average) == ([21, 300, 500], 5, "all")
    assert (timet.input_px, timet.map_px, timet.niter, timet.cluster_on) == (224, 112, 50, "pixels")
    assert (timet.clusters, timet.kmeans_seeds, timet.average) == ([21], [1], "present")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"primary_k": 21}, "primary_k 21 is not among clusters [4, 12]"),
        ({"clusters": [4, 300]}, "300 clusters of 48 points"),
        ({"num_classes": 3, "clusters": [4]}, "label 3 in a benchmark of 3 classes"),
        ({"protocol": "leo"}, "'protocol' = 'leo'"),
    ],
)
def test_bad_parameters(
    params: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, TASK, model, voc(tmp_path / "b"), **params) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()
