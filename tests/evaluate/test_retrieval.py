"""The memory, its sampling and its answers against loops; the task end to end, resumed and repeated to the byte."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.common.scores import read_cells
from components.evaluate.augment import Augment, augmented, crop_box, jittered
from components.evaluate.memory import (
    MemoryFile,
    nearest_keys,
    nearest_keys_on,
    patch_labels,
    rare_first,
    unit,
    vote,
)
from components.evaluate.score_cli import score_main
from components.evaluate.tasks.retrieval import Args, _arguments, _score
from tests.evaluate.small import evaluate, voc, write_labels
from tests.evaluate.test_matching import best_matchings, naive_miou

TASK = "retrieval"


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_patch_labels_are_mean_one_hots() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (12, 12)).astype(np.uint8)
    found = patch_labels(labels, 4, 6)
    assert found.shape == (9, 6)
    for patch in range(9):
        y, x = 4 * (patch // 3), 4 * (patch % 3)
        one_hots = [np.eye(6)[labels[y + i, x + j]] for i in range(4) for j in range(4)]
        np.testing.assert_allclose(found[patch], np.mean(one_hots, axis=0))


def test_rare_classes_are_taken_first() -> None:
    """Class 2 is in one patch of 100, so its score is 1 u, that of the others 99 u."""
    labels = np.zeros((100, 3), np.float32)
    labels[:99, 0], labels[99, 2] = 1, 1
    taken = [rare_first(labels, 10, np.random.default_rng(seed)) for seed in range(200)]
    assert np.mean([99 in rows for rows in taken]) > 0.98
    assert 5 < np.mean([50 in rows for rows in taken]) * 100 < 15  # the others evenly
    labels = np.random.default_rng(1).integers(0, 2, (20, 3)).astype(np.float32)
    draws = np.random.default_rng(5).random(20)
    scores = [
        sum(int((labels[:, c] > 0).sum()) for c in range(3) if row[c]) * u for row, u in zip(labels, draws, strict=True)
    ]
    expected = sorted(sorted(range(20), key=lambda i: scores[i])[:6])
    assert rare_first(labels, 6, np.random.default_rng(5)).tolist() == expected


def test_search_is_exact_on_every_device() -> None:
    rng = np.random.default_rng(2)
    queries, keys = (unit(rng.normal(size=(n, 8)).astype(np.float32)) for n in (13, 57))
    similarity = queries @ keys.T
    order = np.argsort(-similarity, axis=1)[:, :5]
    for values, rows in (nearest_keys(queries, keys, 5), nearest_keys_on("cpu", queries, keys, 5, chunk_rows=10)):
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_allclose(values, np.take_along_axis(similarity, order, 1), atol=1e-6)
    assert (
        nearest_keys(queries, keys[:3], 5)[1].shape
        == nearest_keys_on("cpu", queries, keys[:3], 5, 2)[1].shape
        == (13, 3)
    )


def test_votes() -> None:
    values = np.array([[0.9, 0.88, 0.5]], np.float32)
    labels = np.array([[[1, 0], [0, 1], [0.5, 0.5]]], np.float32)
    weights = np.exp(values[0].astype(float) / 0.02)
    weights /= weights.sum()
    np.testing.assert_allclose(vote(values, labels, 0.02)[0], weights @ labels[0], atol=1e-5)


def test_memory_file_goes_on_where_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [(rng.normal(size=(2, 4)).astype(np.float32), rng.random((2, 3)).astype(np.float32)) for _ in range(5)]
    first = MemoryFile(tmp_path, 5, 2, 4, 3)
    first.add(pictures[:3])
    del first
    second = MemoryFile(tmp_path, 5, 2, 4, 3)
    assert second.done == 3
    with pytest.raises(AssertionError):
        second.memory()
    second.add(pictures[3:])
    memory = second.memory()
    np.testing.assert_array_equal(memory.keys, np.concatenate([keys for keys, _ in pictures]))
    np.testing.assert_array_equal(memory.labels, np.concatenate([labels for _, labels in pictures]))


def test_memory_holds_a_few_pictures_beside_its_file(tmp_path: Path) -> None:
    """32 MiB of keys are filled and asked with under 4 MiB of arrays in this process."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        file = MemoryFile(tmp_path, 64, 128, 1024, 8)
        for _ in range(16):
            file.add((rng.random((128, 1024), np.float32), rng.random((128, 8), np.float32)) for _ in range(4))
        memory = file.memory()
        values, rows = nearest_keys(unit(rng.random((16, 1024), np.float32)), memory.keys, 30)
        vote(values, memory.labels[rows], 0.02)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert memory.keys.nbytes == 32 * 2**20 and peak < 4 * 2**20


def test_crops_stay_inside_and_labels_follow() -> None:
    rng = np.random.default_rng(3)
    ramp = np.arange(60 * 40).reshape(40, 60) % 251
    image = Image.fromarray(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8))
    labels = Image.fromarray(ramp.astype(np.uint8))
    still = Augment((0.5, 2.0), (3 / 4, 4 / 3), 0.1, 0.0)
    shares = []
    for _ in range(60):
        left, top, right, bottom = crop_box(60, 40, still, rng)
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        assert 0.7 < (right - left) / (bottom - top) < 1.4
        shares.append((right - left) * (bottom - top) / 2400)
    assert min(shares) > 0.48 and max(shares) <= 1 and np.std(shares) > 0.02
    assert crop_box(100, 20, Augment((3, 3), (3 / 4, 4 / 3), 0, 0), rng) == (36, 0, 63, 20)  # none fits: the centre
    seed = np.random.default_rng(9)
    pixels, truth = augmented(image, labels, 30, still, seed)
    assert pixels.shape == (30, 30, 3) and truth.shape == (30, 30)
    again = np.random.default_rng(9)
    [again.random() for _ in range(4)]  # the four jitters that did not come
    box = crop_box(60, 40, still, again)
    np.testing.assert_array_equal(truth, np.array(labels.crop(box).resize((30, 30), Image.Resampling.NEAREST)))


def test_jitter_is_mild_and_by_chance() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(60, 190, (16, 16, 3)).astype(np.uint8))
    none = jittered(image, Augment((1, 1), (1, 1), 0.1, 0.0), np.random.default_rng(0))
    assert np.array_equal(np.array(none), np.array(image))
    always = Augment((1, 1), (1, 1), 0.1, 1.0)
    others = [np.array(jittered(image, always, np.random.default_rng(seed))).astype(int) for seed in range(10)]
    changes = [np.abs(other - np.array(image)).mean() for other in others]
    assert all(1 < change < 45 for change in changes)
    turned = jittered(Image.new("RGB", (2, 2), (255, 0, 0)), always, np.random.default_rng(4))
    assert turned.getpixel((0, 0)) != (255, 0, 0)


def test_task(model: Path, tmp_path: Path) -> None:
    root = voc(tmp_path / "b")
    changes: dict[str, Any] = {"input_px": 64, "memory": 600, "augment": False, "epochs": 1, "matching": "none"}
    assert evaluate(tmp_path, TASK, model, root, **changes) == 0
    found, truth, predicted = result(tmp_path), [], []
    for file in sorted((tmp_path / "out/predictions").glob("*.png")):
        mask = Image.open(root / "SegmentationClass" / file.name).resize((64, 64), Image.Resampling.NEAREST)
        truth.append(np.array(mask).astype(int).ravel())
        predicted.append(np.array(Image.open(file)).astype(int).ravel())
    labels, answers = np.concatenate(truth), np.concatenate(predicted)
    kept = labels != 255
    assert found["metrics"]["miou"] == pytest.approx(naive_miou(labels[kept], answers[kept], [0, 1, 2, 3]))
    assert found["metrics"]["pixel_accuracy"] == pytest.approx(np.mean(labels[kept] == answers[kept]))
    assert found["metrics"]["miou"] > 0.5  # ground alone gives under 0.2
    assert found["notes"] == ["384 patches in the memory, 64 of each picture and pass"]  # all there are
    assert (
        found["protocol"]
        == "hummingbird, input 64, memory 600, 5 neighbours, exact, mean over classes all, classes by name"
    )
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(found["metrics"]["miou"])
    with Image.open(tmp_path / "out/retrieval.png") as picture:
        assert picture.width > 500
    argv = ["score", "--gt", str(root / "SegmentationClass"), "--pred", str(tmp_path / "out/predictions")]
    argv += ["--num-classes", "4", "--json", str(tmp_path / "s.json")]
    assert score_main(TASK, "", _arguments, _score, [*argv, "--matching", "none"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["metrics"] == found["metrics"]
    assert score_main(TASK, "", _arguments, _score, argv) == 0  # hungarian, as released
    (best,) = best_matchings(labels[kept], answers[kept], [0, 1, 2, 3], 4)
    again = json.loads((tmp_path / "s.json").read_text())["metrics"]["miou"]
    assert again == pytest.approx(naive_miou(labels[kept], best, [0, 1, 2, 3]))
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics/untrained-retrieval.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None, cell.reason


@pytest.mark.parametrize("stop_at", [2, 7])
def test_killed_and_repeated_to_the_byte(
    stop_at: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the memory is filled (six batches of two), and while queries are computed."""
    import torch

    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, out="whole", matching="hungarian") == 0
    shutil.rmtree(tmp_path / "cache")
    forward, calls = torch.nn.Module.__call__, []

    def stop_later(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(self).__name__ == "PatchEmbed":
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", stop_later)
        assert evaluate(tmp_path, TASK, model, root, matching="hungarian") == 130
    (count,) = (tmp_path / "cache/evaluate").rglob("memory/pictures.json")
    assert int(count.read_text()) == min(2 * (stop_at - 1), 12)
    assert evaluate(tmp_path, TASK, model, root, matching="hungarian") == 0
    assert result(tmp_path) == result(tmp_path, "whole")
    assert result(tmp_path)["protocol"].endswith("hungarian")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_defaults_are_the_published_ones() -> None:
    usual = Args.model_validate({})
    assert (usual.input_px, usual.memory, usual.epochs, usual.neighbours) == (512, 10_240_000, 2, 30)
    assert (usual.temperature, usual.crop_scale, usual.jitter, usual.jitter_p) == (0.02, (0.5, 2.0), 0.1, 0.5)
    assert usual.memory // (10_582 * usual.epochs) == 483


def test_bad_input(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "b")
    for params, message in (
        (
            {"memory": 11},
            "a memory of 11 patches has no place for one of each picture (6 pictures and 2 epochs need 12)",
        ),
        ({"input_px": 30, "fit": "exact"}, "no whole number of 8-pixel patches"),
        ({"num_classes": 3}, "label 3 in a benchmark of 3 classes"),
        ({"temperature": 0}, "'temperature' = 0"),
    ):
        assert evaluate(tmp_path, TASK, model, root, **params) == 2
        error = capsys.readouterr().err
        assert message in error and error.strip().count("\n") == 0
    write_labels(tmp_path / "p/val0.png", np.full((8, 8), 9))
    argv = ["score", "--gt", str(root / "SegmentationClass"), "--pred", str(tmp_path / "p"), "--num-classes", "4"]
    assert score_main(TASK, "", _arguments, _score, [*argv, "--json", str(tmp_path / "s.json")]) == 2
    assert "label 9 is predicted in a benchmark of 4 classes" in capsys.readouterr().err
