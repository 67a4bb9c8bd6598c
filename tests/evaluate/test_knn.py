"""Weighted k-NN against a loop, ties, streaming, and scores from files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import StageError
from components.evaluate import class_score, knn_metrics, knn_score
from components.evaluate.centre_crop import centre_crop
from components.evaluate.knn_metrics import nearest, ranking, top_k, usable, votes
from components.evaluate.score_cli import score_main
from components.evaluate.tasks.knn import _arguments, _score

Rows = list[list[int]]


def naive(x: np.ndarray, labels: np.ndarray, y: np.ndarray, k: int, n_classes: int, temperature: float) -> Rows:
    """Classes by falling vote for every query, one similarity at a time."""
    result = []
    for query in y:
        similar = [(float(query @ row) / np.linalg.norm(query) / np.linalg.norm(row), i) for i, row in enumerate(x)]
        chosen = sorted(similar, key=lambda pair: (-pair[0], pair[1]))[:k]
        ballot = [0.0] * n_classes
        for similarity, i in chosen:
            ballot[labels[i]] += math.exp(similarity / temperature)
        result.append(sorted(range(n_classes), key=lambda c: (-ballot[c], c)))
    return result


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("chunk", [3, 40])
def test_equals_the_loop(k: int, chunk: int) -> None:
    rng = np.random.default_rng(0)
    x, y, labels = rng.normal(size=(40, 6)), rng.normal(size=(15, 6)), rng.integers(0, 7, 40)
    found, rows = nearest(torch.from_numpy(y), torch.from_numpy(x).split(chunk), k, query_rows=4)
    ranked = ranking(votes(found, torch.from_numpy(labels)[rows], 7, 0.07), 7)
    assert ranked.tolist() == naive(x, labels, y, k, 7, 0.07)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(1, 6))
def test_equal_values_are_taken_in_order(rows: list[list[int]], k: int) -> None:
    values, columns = top_k(torch.tensor(rows, dtype=torch.float32), k)
    for row, value, column in zip(rows, values.tolist(), columns.tolist(), strict=True):
        expected = sorted(range(6), key=lambda i: (-row[i], i))[:k]
        assert column == expected
        assert value == [row[i] for i in expected]


def test_duplicates_across_chunks_keep_their_order() -> None:
    x = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    _, rows = nearest(x[:1], x.split(2), 5, query_rows=1)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_no_more_than_a_block_of_similarities_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many train features as one likes: a block of queries meets a chunk of them at a time."""
    blocks: list[tuple[int, ...]] = []

    def spied(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        blocks.append(tuple(values.shape))
        return top_k(values, k)

    monkeypatch.setattr(knn_metrics, "top_k", spied)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=rng), torch.randn(23, 4, generator=rng)
    how = knn_score.Votes((10, 20, 100, 200), 20, 0.07, query_rows=8)
    labels = torch.arange(50) % 7
    found = knn_score.classify(y, iter(x.split(16)), labels, labels[:23], how, n_classes=7)
    assert len(blocks) == 3 * 4 and max(q for q, _ in blocks) == 8 and max(n for _, n in blocks) == 16
    assert set(found.metrics) == {f"top{n}_k{k}" for n in (1, 5) for k in (10, 20, 50)}


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_top5_of_few_neighbours_looks_at_as_many_classes(k: int) -> None:
    """As the released code: `correct.narrow(1, 0, min(5, k))`; classes without a vote are not guesses."""
    rng = np.random.default_rng(k)
    x, y, labels, truth = rng.normal(size=(30, 4)), rng.normal(size=(20, 4)), *rng.integers(0, 8, (2, 30))
    how = knn_score.Votes((k,), k, 0.07)
    chunks, of_train, truth = [torch.from_numpy(x)], torch.from_numpy(labels), truth[:20]
    found = knn_score.classify(torch.from_numpy(y), chunks, of_train, torch.from_numpy(truth), how, n_classes=8)
    ranked = np.array(naive(x, labels, y, k, 8, 0.07))
    assert found.metrics[f"top5_k{k}"] == (ranked[:, : min(5, k)] == truth[:, None]).any(1).mean()


def test_a_low_temperature_does_not_overflow() -> None:
    ballot = votes(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[2, 1, 1]]), 3, 1e-3)
    assert torch.isfinite(ballot).all() and ranking(ballot, 3).tolist() == [[2, 1, 0]]


def test_k_beyond_the_training_set() -> None:
    assert list(usable([10, 20, 100, 200], 90)) == [10, 20, 90]
    x = torch.eye(4)
    found = knn_score.classify(
        x, [x], torch.arange(4), torch.arange(4), knn_score.Votes((10, 20), 20, 0.07), n_classes=4
    )
    assert set(found.metrics) == {"top1_k4"}  # four classes have no top-5
    assert found.primary_k == 4
    assert "k limited to the 4 training pictures" in found.notes[0]
    assert "ranked by k = 4" in found.notes[1]


def test_look_is_resize_and_centre_crop(tmp_path: Path) -> None:
    """Against torchvision's transforms, which the published evaluation uses."""
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (50, 83, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    published = v2.Compose([v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(28)])
    expected = np.array(published(Image.fromarray(pixels)))
    assert np.array_equal(centre_crop(tmp_path / "a.png", 32, 28), expected)


def run(out: Path, *argv: object) -> int:
    line = ["score", *map(str, argv), "--json", str(out)]
    return score_main("knn", "help", _arguments, _score, line)


def test_score_of_feature_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(60, 5)), rng.integers(0, 8, 60)
    y, truth = rng.normal(size=(20, 5)), rng.integers(0, 8, 20)
    np.savez(tmp_path / "train.npz", features=x, labels=labels)
    np.savez(tmp_path / "test.npz", features=y, labels=truth)
    out = tmp_path / "o.json"
    assert run(out, "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", "--k", 5) == 0
    metrics = json.loads(out.read_text())["metrics"]
    ranked = np.array(naive(x.astype(np.float32), labels, y.astype(np.float32), 5, 8, 0.07))
    assert metrics["top1_k5"] == pytest.approx((ranked[:, 0] == truth).mean())
    assert metrics["top5_k5"] == pytest.approx((ranked[:, :5] == truth[:, None]).any(1).mean())


def test_score_of_predictions(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    heading = ["image", "label", "top1", "top2", "top3", "top4", "top5"]
    rows = [["a", "cat, tabby", "cat, tabby", *"bcde"], ["b", "dog", *"abcd", "dog"]]
    rows += [["c", "x", *"abcde"], ["d", "x", *"abcde"]]
    with file.open("w") as stream:
        csv.writer(stream).writerows([heading, *rows])
    assert run(tmp_path / "o.json", "--predictions", file) == 0
    assert json.loads((tmp_path / "o.json").read_text()) == {"metrics": {"top1": 0.25, "top5": 0.5}, "n": 4}


def test_bad_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "objects.npz", features=np.array([{}], dtype=object), labels=np.zeros(1, int))
    np.savez(tmp_path / "shapes.npz", features=np.zeros((3, 2)), labels=np.zeros(4, int))
    np.savez(tmp_path / "nan.npz", features=np.full((3, 2), np.nan), labels=np.zeros(3, int))
    np.savez(tmp_path / "keys.npz", x=np.zeros((3, 2)))
    for name in ["text", "empty", "objects", "shapes", "nan", "keys", "absent"]:
        file = tmp_path / f"{name}.npz"
        assert run(tmp_path / "o.json", "--train", file, "--test", file) == 2, name
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{name}.npz" in error
    assert run(tmp_path / "o.json") == 2
    (tmp_path / "p.csv").write_text("a,b\n1,2\n")
    assert run(tmp_path / "o.json", "--predictions", tmp_path / "p.csv") == 2
    (tmp_path / "p.csv").write_text("label,top1\n1\n")
    with pytest.raises(StageError, match="fewer values"):
        class_score.score_predictions(tmp_path / "p.csv")
    assert not (tmp_path / "o.json").exists()
