"""Cluster-based foreground extraction: every step against loops over pictures, clusters and pixels; then the task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.scores import read_cells
from components.evaluate import cbfe
from components.evaluate.score_cli import score_main
from components.evaluate.tasks.foreground import Args, _arguments, _score
from tests.evaluate.small import evaluate, voc, write_labels

TASK = "foreground"
Picture = tuple[np.ndarray, np.ndarray, np.ndarray]


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def pictures(k: int = 20, n: int = 6, side: int = 12) -> list[Picture]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        clusters = rng.integers(0, k, (side, side)) // rng.integers(1, 4)
        truth = np.zeros((side, side), bool)
        truth[rng.integers(0, 6) :, rng.integers(0, 6) :] = True
        found.append((clusters, truth ^ (rng.random((side, side)) < 0.2), truth))
    return found


def naive_precisions(data: list[Picture], k: int) -> list[float]:
    found = []
    for cluster in range(k):
        shares = [np.mean(a[c == cluster]) for c, a, _ in data if (c == cluster).any()]
        found.append(float(np.mean(shares)) if shares else 0.0)
    return found


def naive_iou(data: list[Picture], chosen: list[int]) -> float:
    return float(np.mean([np.sum(np.isin(c, chosen) & t) / np.sum(np.isin(c, chosen) | t) for c, _, t in data]))


def test_precisions_cuts_and_threshold() -> None:
    data = pictures()
    tables = cbfe.tabulate(data, 20)
    expected = naive_precisions(data, 20)
    np.testing.assert_allclose(cbfe.precisions(tables), expected)
    order = sorted(range(20), key=lambda c: expected[c])
    cuts = [(naive_iou(data, order[start:]), start) for start in range(11, 15)]  # 55 % to 75 % of 20
    for value, start in cuts:
        chosen = np.isin(np.arange(20), order[start:])
        assert cbfe.ious(tables, chosen).mean() == pytest.approx(value)
    precision = expected[order[max(cuts)[1]]]
    threshold = min(np.arange(0, 1, 0.05), key=lambda step: abs(step - precision))
    assert cbfe.best_threshold(tables) == pytest.approx(threshold)


def test_nothing_missed_where_there_is_nothing() -> None:
    empty = np.zeros((4, 4), bool)
    tables = cbfe.tabulate([(np.zeros((4, 4), int), empty, empty)], 2)
    assert cbfe.ious(tables, np.array([False, True])).tolist() == [1.0]
    assert cbfe.ious(tables, np.array([True, False])).tolist() == [0.0]


def naive_contour(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels of the mask with one of four neighbours outside of it; beyond the picture is outside."""
    padded = np.pad(mask, 1)
    found = set()
    for y, x in zip(*np.nonzero(mask), strict=True):
        around = (padded[y, x + 1], padded[y + 2, x + 1], padded[y + 1, x], padded[y + 1, x + 2])
        if not all(around):
            found.add((int(x), int(y)))
    return found


def naive_f(truth: np.ndarray, predicted: np.ndarray, tolerance: float) -> float:
    def points(mask: np.ndarray) -> list[np.ndarray]:
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        return [point[0] for line in lines for point in line]

    def share(of: list[np.ndarray], to: list[np.ndarray]) -> float:
        return float(np.mean([any(np.sum((a - b) ** 2) < tolerance**2 for b in to) for a in of]))

    t, p = points(truth), points(predicted)
    precision, recall = share(p, t), share(t, p)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 3.5]))
def test_boundary_f_against_all_pairs_of_points(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (cv2.blur(rng.random((11, 13)), (3, 3)) > 0.5 for _ in range(2))
    assert {tuple(point) for point in cbfe.contour(truth).tolist()} == naive_contour(truth)
    found = cbfe.boundary_f(truth, predicted, tolerance)
    if predicted.all() or not predicted.any():
        assert found == 0.0
    elif not truth.any():
        assert found is None
    else:
        assert found == pytest.approx(naive_f(truth, predicted, tolerance))


def test_boundary_f_by_hand() -> None:
    truth = np.zeros((40, 40), bool)
    truth[10:20, 10:20] = True
    assert cbfe.boundary_f(truth, truth, 1) == 1.0
    moved = np.roll(truth, 3, axis=1)
    assert cbfe.boundary_f(truth, moved, 3.1) == 1.0
    assert 0 < (cbfe.boundary_f(truth, moved, 3) or 0) < 1  # strictly nearer
    assert cbfe.boundary_f(truth, np.zeros_like(truth), 16) == 0.0
    assert cbfe.boundary_f(np.zeros_like(truth), truth, 16) is None
    assert cbfe.boundary_f(~truth, truth, 2) != cbfe.boundary_f(truth, truth, 2)  # of the background: another contour


def test_task(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root) == 0
    found = result(tmp_path)
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["val0", "val1", "val2"]
    for row in rows:
        mask = Image.open(root / f"SegmentationClass/{row['name']}.png").resize((20, 20), Image.Resampling.NEAREST)
        truth, predicted = (
            np.array(mask) != 0,
            np.array(Image.open(tmp_path / f"out/predictions/{row['name']}.png")) == 1,
        )
        assert row["iou"] == pytest.approx(np.sum(truth & predicted) / np.sum(truth | predicted))
        if predicted.any() and not predicted.all():
            assert row["boundary_f"] == pytest.approx(naive_f(truth, predicted, 16))
    assert found["metrics"]["iou"] == pytest.approx(np.mean([row["iou"] for row in rows]))
    assert found["metrics"]["threshold"] in np.arange(0, 1, 0.05)
    assert found["protocol"].startswith("timet cbfe, 12 clusters, input 64, maps 20, void as foreground")
    with Image.open(tmp_path / "out/foreground.png") as picture:
        assert picture.width > 500
    argv = ["score", "--gt", str(root / "SegmentationClass"), "--pred", str(tmp_path / "out/predictions")]
    assert score_main(TASK, "", _arguments, _score, [*argv, "--json", str(tmp_path / "s.json")]) == 0
    again = json.loads((tmp_path / "s.json").read_text())["metrics"]
    assert again == {key: found["metrics"][key] for key in ("iou", "boundary_f")}
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics/untrained-foreground.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None, cell.reason


def test_leoparts_protocol_and_a_second_run(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b")
    changes = {"protocol": "leopart", "void": "background", "boundary_of": "background"}
    assert evaluate(tmp_path, TASK, model, root, **changes) == 0
    assert "void as background, contour of the true background" in result(tmp_path)["protocol"]
    shutil.rmtree(tmp_path / "cache")
    assert evaluate(tmp_path, TASK, model, root, out="again", **changes) == 0
    assert result(tmp_path) == result(tmp_path, "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_protocols_are_the_published_ones() -> None:
    timet, leopart = Args.model_validate({}), Args.model_validate({"protocol": "leopart"})
    assert (timet.train_set, timet.clusters, timet.niter, timet.together, timet.spherical) == (
        *("trainaug", 300, 50),
        *(False, False),
    )
    assert (leopart.train_set, leopart.clusters, leopart.niter, leopart.together, leopart.spherical) == (
        *("train", 200, 100),
        *(True, True),
    )
    assert (timet.boundary_of, leopart.boundary_of) == ("background", "foreground")
    assert (timet.input_px, timet.map_px, timet.attention_mass, timet.tolerance_px) == (448, 100, 0.65, 16)


def test_bad_input(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "b")
    for params, message in (
        ({"input_px": 24}, "a grid of 3x3 patches is too small for an attention mask"),
        ({"clusters": 400}, "400 clusters of 384 points"),
        ({"attention_mass": 1}, "'attention_mass' = 1"),
    ):
        settings: dict[str, Any] = {"cluster_on": "patches", **params}
        assert evaluate(tmp_path, TASK, model, root, **settings) == 2
        assert message in capsys.readouterr().err
    assert evaluate(tmp_path, TASK, "timm:resnet10t", root, input_px=128) == 2
    assert "class attention needs a timm VisionTransformer with a class token" in capsys.readouterr().err
    write_labels(tmp_path / "p/val0.png", np.zeros((4, 5)))
    argv = [
        "score",
        "--gt",
        str(root / "SegmentationClass"),
        "--pred",
        str(tmp_path / "p"),
        "--json",
        str(tmp_path / "s"),
    ]
    assert score_main(TASK, "", _arguments, _score, argv) == 2
    assert "must be square, this one is 5x4" in capsys.readouterr().err
