"""The task end to end, its figures against a literal reading of the written maps, and the stand-alone command."""

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
from components.evaluate.cluster_maps import read_clusters, write_clusters
from components.evaluate.layouts.video_masks import read_videos
from components.evaluate.score_cli import score_main
from components.evaluate.tasks.video_clustering import Args, _arguments, _score, drawn
from tests.evaluate.small import davis, evaluate, real_data, write_labels, ytvos
from tests.evaluate.test_matching import best_matchings, naive_miou

TASK = "video_clustering"


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / f"{out}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def units_of(root: Path, folder: Path, scope: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """(labels, clusters) of every scope, by video."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for video in read_videos(root, "ytvos", "valid"):
        stems = {mask.stem: number for number, mask in enumerate(video.masks)}
        pairs = []
        for file in sorted((folder / video.name).glob("*.png")):
            clusters = np.array(Image.open(file)).astype(int)
            pairs.append((video.labels(stems[file.stem], len(clusters)).astype(int).ravel(), clusters.ravel()))
        whole = (np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))
        found[video.name] = pairs if scope == "frame" else [whole]
    return found


def naive_scores(truth: np.ndarray, clusters: np.ndarray, how: str) -> list[float]:
    labels = sorted(set(truth[truth != 255].tolist()))
    seen, truth = clusters[truth != 255], truth[truth != 255]
    if how == "hungarian":
        return [naive_miou(truth, p, labels) for p in best_matchings(truth, seen, labels, int(clusters.max()) + 1)]
    predicted = np.zeros_like(truth)
    for cluster in set(seen.tolist()):
        predicted[seen == cluster] = labels[
            int(np.argmax([np.sum(truth[seen == cluster] == label) for label in labels]))
        ]
    return [naive_miou(truth, predicted, labels)]


def test_figures_are_the_rule_read_literally(model: Path, tmp_path: Path) -> None:
    root = ytvos(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root) == 0
    found = result(tmp_path)
    assert set(found["metrics"]) == {f"miou_{s}_{k}" for s in ("frame", "clip", "dataset") for k in ("gt", "k6")}
    assert found["primary"] == "miou_clip_gt" and "mean over labels present" in found["protocol"]
    for scope in ("frame", "clip"):
        for setting, how in (("gt", "hungarian"), ("k6", "greedy")):
            units = units_of(root, tmp_path / "out/clusters" / f"{scope}_{setting}", scope)
            values = {}
            for video, pairs in units.items():
                assert len(pairs) == (3 if scope == "frame" else 1)
                if setting == "gt":
                    assert all(c.max() + 1 == len(np.unique(t[t != 255])) for t, c in pairs)
                values[video] = [naive_scores(t, c, how) for t, c in pairs]
            assert all(len(v) == 1 for of_video in values.values() for v in of_video)  # no ties here
            flat = {video: [v[0] for v in of_video] for video, of_video in values.items()}
            batches = [np.mean(flat["a"] + flat["b"]), np.mean(flat["c"])]  # of two clips
            assert found["metrics"][f"miou_{scope}_{setting}"] == pytest.approx(np.mean(batches))
            rows = {row["sequence"]: row for row in pq.read_table(tmp_path / "out/details.parquet").to_pylist()}
            for video, of_video in flat.items():
                assert rows[video][f"miou_{scope}_{setting}"] == pytest.approx(np.mean(of_video))
    pairs = [p for of_video in units_of(root, tmp_path / "out/clusters/dataset_gt", "clip").values() for p in of_video]
    truth, clusters = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    assert set(np.unique(truth)) == {0, 1, 2, 3} and clusters.max() == 3
    (value,) = naive_scores(truth, clusters, "hungarian")
    assert found["metrics"]["miou_dataset_gt"] == pytest.approx(value)
    classes = pq.read_table(tmp_path / "out/dataset_gt.parquet").to_pylist()
    assert [row["class"] for row in classes] == ["0", "1", "2", "3"]
    assert np.mean([row["iou"] for row in classes]) == pytest.approx(value)


def test_clusters_follow_colours(model: Path, tmp_path: Path) -> None:
    """Even an untrained encoder parts plain colours; the same score comes from the files alone."""
    root = ytvos(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, frames=2, clusters=["gt"], input_px=96) == 0
    found = result(tmp_path)["metrics"]
    assert found["miou_clip_gt"] > 0.7  # one cluster for all: under 0.2
    for scope in ("frame", "clip", "dataset"):
        argv = ["score", "--gt", str(root), "--layout", "ytvos", "--split", "valid", "--scope", scope]
        argv += ["--pred", str(tmp_path / f"out/clusters/{scope}_gt"), "--batch-clips", "2"]
        assert score_main(TASK, "", _arguments, _score, [*argv, "--json", str(tmp_path / "s.json")]) == 0
        assert json.loads((tmp_path / "s.json").read_text())["metrics"]["miou"] == found[f"miou_{scope}_gt"]
    with Image.open(tmp_path / "out/clusters.png") as picture:
        assert picture.width > 500 and picture.height > 300
    (tmp_path / "metrics").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "metrics/untrained-video_clustering.json")
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is not None, cell.reason


def test_killed_and_repeated_to_the_byte(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ytvos(tmp_path / "b")
    assert evaluate(tmp_path, TASK, model, root, out="whole") == 0
    shutil.rmtree(tmp_path / "cache")
    from components.evaluate import video_kmeans

    write, calls = video_kmeans.write_folder, []

    def stop_later(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(video_kmeans, "write_folder", stop_later)
        assert evaluate(tmp_path, TASK, model, root) == 130
    assert not (tmp_path / "out.json").exists()
    assert len(list((tmp_path / "cache/evaluate").rglob("clusters/*/*/*.png"))) == 4 * 3
    assert evaluate(tmp_path, TASK, model, root) == 0
    assert result(tmp_path) == result(tmp_path, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_void_is_never_counted_unless_asked(model: Path, tmp_path: Path) -> None:
    root = ytvos(tmp_path / "b")
    for file in sorted((root / "valid/Annotations").rglob("*.png")):
        labels = np.array(Image.open(file))
        labels[:16] = 255
        write_labels(file, labels)
    changes: dict[str, Any] = {"clusters": ["gt"], "scopes": ["clip"], "pictures": 0}
    assert evaluate(tmp_path, TASK, model, root, **changes) == 0
    assert evaluate(tmp_path, TASK, model, root, out="label", void="label", **changes) == 0
    plain, label = result(tmp_path), result(tmp_path, "label")
    assert "void as a label" in label["protocol"] and "void" not in plain["protocol"]
    rows = [pq.read_table(tmp_path / out / "clip_gt.parquet").to_pylist() for out in ("out", "label")]
    assert [b["labels"] - a["labels"] for a, b in zip(*rows, strict=True)] == [1, 1, 1]
    assert evaluate(tmp_path, TASK, model, root, out="uvos", uvos=True, **changes) == 0
    uvos = pq.read_table(tmp_path / "uvos/clip_gt.parquet").to_pylist()
    assert [row["labels"] for row in uvos] == [2, 2, 2] and "objects as one" in result(tmp_path, "uvos")["protocol"]


def test_all_classes_count_when_asked(model: Path, tmp_path: Path) -> None:
    root = ytvos(tmp_path / "b")
    changes: dict[str, Any] = {"clusters": [6], "scopes": ["clip"], "pictures": 0}
    assert evaluate(tmp_path, TASK, model, root, **changes) == 0
    assert evaluate(tmp_path, TASK, model, root, out="all", average="all", **changes) == 0
    a, b = (pq.read_table(tmp_path / out / "clip_k6.parquet").to_pylist() for out in ("out", "all"))
    for present, everything in zip(a, b, strict=True):  # three of the four labels are in each clip
        assert everything["miou"] == pytest.approx(present["miou"] * 3 / 4)
    assert "labels all" in result(tmp_path, "all")["protocol"]


def test_davis_layout_and_drawn_frames(model: Path, tmp_path: Path) -> None:
    root = davis(tmp_path / "b", names=("a", "b"), n_frames=9)
    assert evaluate(tmp_path, TASK, model, root, layout="davis", split="2017/val", clusters=["gt"]) == 0
    assert result(tmp_path)["data_variant"] == "davis 2017/val: 2 videos, 6 frames with masks"
    videos = read_videos(root, "davis", "2017/val")
    taken = [drawn(v, Args(frames=4)) for v in videos]
    assert all(len(set(v.frames)) == 4 and list(v.frames) == sorted(v.frames) for v in taken)
    assert [m.stem for m in taken[0].masks] == [f.stem for f in taken[0].frames]
    assert len(drawn(videos[0], Args(frames=20)).frames) == 9
    assert len({tuple(f.stem for f in drawn(videos[0], Args(frames=4, seed=s)).frames) for s in range(8)}) > 1


def test_real_videos(model: Path, tmp_path: Path) -> None:
    """DAVIS-2016: one object, so two clusters; an untrained encoder still parts much of the ground from it."""
    changes: dict[str, Any] = {"layout": "davis", "split": "2017/val", "input_px": 64, "frames": 2, "pictures": 1}
    assert evaluate(tmp_path, TASK, model, real_data("davis2016_val"), **changes) == 0
    found = result(tmp_path)
    assert found["data_variant"] == "davis 2017/val: 5 videos, 10 frames with masks"
    rows = pq.read_table(tmp_path / "out/clip_gt.parquet").to_pylist()
    assert [row["labels"] for row in rows] == [2] * 5 and [row["clusters"] for row in rows] == [2] * 5
    assert all(0.15 < value < 1 for value in found["metrics"].values())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"primary_scope": "frame", "scopes": ["clip"]}, "primary_scope 'frame' is not among the scopes"),
        ({"void": "label", "average": "all"}, "void as a label goes with the labels present, not with all of them"),
        ({"clusters": ["tg"]}, "'clusters"),
        ({"split": "train"}, "no split 'train'"),
        ({"clusters": [5000]}, "5000 clusters of 576 points"),
    ],
)
def test_bad_parameters(
    params: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, TASK, model, ytvos(tmp_path / "b"), **params) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_score_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ytvos(tmp_path / "b", names=("a",))
    argv = ["score", "--gt", str(root), "--layout", "ytvos", "--split", "valid", "--pred", str(tmp_path / "p")]
    argv += ["--json", str(tmp_path / "s.json")]
    for name, pixels, message in (
        (None, None, "no label or cluster maps"),
        ("00001", np.zeros((8, 8)), "a cluster map of a frame that has no mask in video a"),
        ("00005", np.zeros((8, 9)), "a cluster map must be square, this one is 9x8"),
    ):
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        if name:
            write_labels(tmp_path / f"p/a/{name}.png", pixels)
        assert score_main(TASK, "", _arguments, _score, argv) == 2
        assert message in capsys.readouterr().err


def test_maps_of_many_clusters_survive(tmp_path: Path) -> None:
    for most in (3, 255, 256, 5000):
        clusters = np.random.default_rng(most).integers(0, most + 1, (9, 9))
        clusters[0, 0] = most
        write_clusters(tmp_path / "x.png", clusters)
        np.testing.assert_array_equal(read_clusters(tmp_path / "x.png"), clusters)
