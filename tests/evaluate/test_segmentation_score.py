"""mIoU against a loop over classes, and the stand-alone command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluate import segmentation_score as seg
from components.evaluate.score_cli import score_main
from components.evaluate.segmentation_score import add_arguments, score_command
from tests.evaluate.small import write_labels


def naive(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> tuple[float, float]:
    kept = truth != 255
    ious = []
    for c in range(n_classes):
        t, p = kept & (truth == c), kept & (predicted == c)
        if (t | p).any():
            ious.append((t & p).sum() / (t | p).sum())
    return float(np.mean(ious)), float((truth == predicted)[kept].mean())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 21))
def test_equals_the_loop(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, (3, 9, 11)).astype(np.uint8)
    predicted = rng.integers(0, max(2, n_classes // 2), truth.shape).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    counts = sum(seg.confusion(t, p, n_classes) for t, p in zip(truth, predicted, strict=True))
    assert isinstance(counts, np.ndarray)
    found = seg.figures(counts)
    assert (found["miou"], found["pixel_accuracy"]) == pytest.approx(naive(truth, predicted, n_classes), abs=1e-12)


def test_means_over_classes_that_the_truth_lacks() -> None:
    """Class 2 is predicted and never true, class 3 is neither: the three means of the released codes."""
    truth, predicted = np.array([[0, 0, 0, 1, 1, 255]], np.uint8), np.array([[0, 0, 2, 1, 0, 3]], np.uint8)
    counts = seg.confusion(truth, predicted, 4)
    ious = [2 / 4, 1 / 2, 0.0]  # one void pixel of class 3 is not counted
    assert seg.figures(counts)["miou"] == pytest.approx(sum(ious) / 3)
    assert seg.figures(counts, "present")["miou"] == pytest.approx(sum(ious[:2]) / 2)
    assert seg.figures(counts, "all")["miou"] == pytest.approx(sum(ious) / 4)


def test_absent_class_is_null_not_zero() -> None:
    counts = seg.confusion(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8), 3)
    assert seg.figures(counts)["miou"] == 1.0
    assert [row["iou"] for row in seg.class_rows(counts, ["a", "b", "c"])] == [1.0, 1.0, None]


def run(tmp_path: Path, n_classes: int = 3) -> int:
    argv = ["score", "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--json", tmp_path / "o.json"]
    return score_main(
        "voc_linear", "help", add_arguments, score_command, [*map(str, argv), "--num-classes", str(n_classes)]
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, (2, 8, 9)), rng.integers(0, 3, (2, 8, 9))
    for i in range(2):
        write_labels(tmp_path / "gt" / f"{i}.png", truth[i])
        write_labels(tmp_path / "pred" / f"{i}.png", predicted[i])
    assert run(tmp_path) == 0
    scores = json.loads((tmp_path / "o.json").read_text())
    assert scores["metrics"]["miou"] == pytest.approx(naive(truth, predicted, 3)[0])
    assert len(scores["classes"]) == 3 and scores["n"] == 2
    assert "miou" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(message: str, n_classes: int = 3) -> None:
        assert run(tmp_path, n_classes) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1

    fails("no such folder")
    (tmp_path / "gt").mkdir()
    (tmp_path / "pred").mkdir()
    fails("no label or cluster maps")
    write_labels(tmp_path / "pred/a.png", np.zeros((4, 4)))
    fails("no such picture")
    write_labels(tmp_path / "gt/a.png", np.zeros((4, 5)))
    fails("the predicted map is 4x4, the true one 5x4")
    write_labels(tmp_path / "gt/a.png", np.full((4, 4), 3))
    fails("label 3 in a benchmark of 3 classes")
    write_labels(tmp_path / "gt/a.png", np.full((4, 4), 255))
    fails("every pixel is void")
    fails("number of classes must be", n_classes=0)
    assert not (tmp_path / "o.json").exists()
