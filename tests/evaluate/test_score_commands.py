"""Every `score` command on broken input: one clear line, a code that says so, and nothing written."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from components.common.errors import StageError
from components.evaluate.images import read_index
from components.evaluate.score_cli import score_main
from tests.evaluate.small import davis, write_labels

Change = Callable[[Path], None]
DEEP = "[" * 100_000  # Python's parser gives up on it with an error of its own kind


def score(task: str, out: Path, *argv: object) -> int:
    module = importlib.import_module(f"components.evaluate.tasks.{task}")
    arguments = getattr(module, "_arguments", None) or module.add_arguments
    command = getattr(module, "_score", None) or module.score_command
    return score_main(task, "", arguments, command, ["score", *map(str, argv), "--json", str(out)])


def label_maps(root: Path, classes: int = 3) -> list[object]:
    """Three maps that are right, of truth and prediction."""
    rng = np.random.default_rng(0)
    for name in "abc":
        labels = rng.integers(1, classes, (6, 6))
        for side in ("gt", "pred"):
            write_labels(root / side / f"{name}.png", labels)
    return ["--gt", root / "gt", "--pred", root / "pred"]


def masks(root: Path) -> list[object]:
    davis(root / "gt", ("a",))
    shutil.copytree(root / "gt/Annotations/480p", root / "pred")
    return ["--gt", root / "gt", "--pred", root / "pred"]


def parts(root: Path) -> list[object]:
    for video in "ab":
        for folder in (root / "gt/Annotations/Category_ids", root / "pred"):
            write_labels(folder / video / "0001.png", np.eye(5))
    (root / "gt/lists").mkdir()
    (root / "gt/lists/val_videos.txt").write_text("a\nb\n")
    return ["--gt", root / "gt", "--pred", root / "pred"]


def poses(root: Path) -> list[object]:
    for folder in ("gt", "pred"):
        place = root / folder / "joint_positions/run/c"
        place.mkdir(parents=True)
        savemat(place / "joint_positions.mat", {"pos_img": np.random.default_rng(0).uniform(1, 99, (2, 15, 3))})
    (root / "gt/splits").mkdir()
    (root / "gt/splits/run_test_split1.txt").write_text("c.avi 2\n")
    return ["--gt", root / "gt", "--pred", root / "pred"]


def videos(root: Path) -> list[object]:
    """Clusters that are the masks, brought to a square."""
    davis(root / "gt", ("a",))
    for t in range(5):
        write_labels(root / f"pred/a/{t:05d}.png", np.zeros((9, 9)))
    return ["--gt", root / "gt", "--pred", root / "pred"]


def features(root: Path) -> list[object]:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.savez(root / f"{name}.npz", features=rng.normal(size=(9, 4)), labels=rng.integers(0, 3, 9))
    return ["--train", root / "a.npz", "--test", root / "b.npz"]


def detections(root: Path) -> list[object]:
    polygon = [2, 2, 10, 2, 10, 10, 2, 10]
    note = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 2, 8, 8], "iscrowd": 0, "segmentation": [polygon]}
    images = [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}]
    found = [{"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [2, 2, 8, 8]}]
    document = {"images": images, "annotations": [note], "categories": [{"id": 3, "name": "x"}]}
    (root / "gt.json").write_text(json.dumps(document))
    (root / "pred.json").write_text(json.dumps(found))
    return ["--gt", root / "gt.json", "--pred", root / "pred.json"]


def gone(place: str) -> Change:
    return lambda root: shutil.rmtree(root / place)


def emptied(place: str) -> Change:
    def change(root: Path) -> None:
        gone(place)(root)
        (root / place).mkdir()

    return change


def text(place: str, content: str | bytes) -> Change:
    raw = content.encode() if isinstance(content, str) else content
    return lambda root: (root / place).write_bytes(raw) and None


def folder(place: str) -> Change:
    def change(root: Path) -> None:
        (root / place).unlink()
        (root / place).mkdir()

    return change


def saved(place: str, **arrays: Any) -> Change:
    return lambda root: np.savez(root / place, **arrays)


def segmented(key: str, value: Any) -> Change:
    """Another segmentation in the truth or in the detections."""

    def change(root: Path) -> None:
        file = root / f"{key}.json"
        content = json.loads(file.read_text())
        (content["annotations"] if key == "gt" else content)[0]["segmentation"] = value
        file.write_text(json.dumps(content))

    return change


def no_pose(root: Path) -> None:
    savemat(root / "gt/joint_positions/run/c/joint_positions.mat", {"pos_img": np.zeros((2, 15, 0))})


def nothing(root: Path) -> None:
    """The command's own options are what is wrong."""


CLASSES = ("--num-classes", 3)
SPLIT = "gt/splits/run_test_split1.txt"


def coded(counts: Any) -> dict[str, Any]:
    return {"size": [20, 30], "counts": counts}


CASES: list[tuple[str, Callable[[Path], list[object]], Change, tuple[object, ...], str]] = [
    ("vos", masks, gone("gt"), (), "no such folder"),
    ("vos", masks, text("pred/a/00002.png", b"\x89PNG\r\n"), (), "picture not readable"),
    ("voc_linear", label_maps, emptied("pred"), CLASSES, "no label or cluster maps"),
    ("ade_linear", label_maps, nothing, ("--num-classes", -1), "the number of classes must be 2 to 255, got -1"),
    ("ade_linear", label_maps, nothing, ("--num-classes", 300), "the number of classes must be 2 to 255, got 300"),
    ("foreground", label_maps, nothing, ("--tolerance-px", "nan"), "the tolerance must be above 0 px, got nan"),
    ("parts", parts, emptied("gt/Annotations/Category_ids/a"), (), "no label maps of video a"),
    ("pose", poses, text(SPLIT, "é".encode("latin-1")), (), "the list is not readable as text"),
    ("pose", poses, folder(SPLIT), (), "the list is not readable as text"),
    ("pose", poses, no_pose, (), "`pos_img` has no frames"),
    ("video_clustering", videos, nothing, ("--batch-clips", 0), "in batches of one at least, got 0"),
    ("knn", features, folder("a.npz"), (), "expected an .npz"),
    ("knn", features, saved("a.npz", features=np.array([{}, 1]), labels=np.arange(2)), (), "expected an .npz"),
    ("knn", features, saved("a.npz", features=np.ones((2, 4)) * 1j, labels=np.arange(2)), (), "of type complex128"),
    ("knn", features, saved("a.npz", features=np.ones((2, 4)), labels=np.array([0, 0.5])), (), "of type float64, exp"),
    ("knn", features, saved("a.npz", features=np.ones((2, 4)), labels=np.array([0, 10**12])), (), "class number 10000"),
    ("knn", features, nothing, ("--temperature", "nan"), "k and the temperature must be positive"),
    ("coco", detections, folder("gt.json"), (), "no such file"),
    ("coco", detections, text("pred.json", DEEP), (), "not readable as JSON"),
    ("coco", detections, segmented("gt", [[1, 2, 1e30, 4, 5, 6]]), (), "of annotation 1 is neither polygons nor"),
    ("coco", detections, segmented("gt", [[1, 2, 3, 4]]), (), "of annotation 1 is neither polygons nor"),
    ("coco", detections, segmented("gt", coded([1, 2])), (), "run lengths that do not fit its image"),
    ("coco", detections, segmented("gt", coded("abcdefgh")), (), "run lengths that do not fit its image"),
    ("coco", detections, segmented("pred", coded("zz\u00e9")), (), "run lengths that do not fit its image"),
    ("coco", detections, segmented("pred", coded([0, 600])), (), "plain run lengths, results have compressed ones"),
    ("discovery", detections, nothing, ("--least-iou", 0), "the least IoU must lie above 0 and not above 1, got 0.0"),
]


@pytest.mark.parametrize(("task", "make", "spoil", "options", "message"), CASES)
def test_broken_input(
    task: str,
    make: Callable[[Path], list[object]],
    spoil: Change,
    options: tuple[object, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = make(tmp_path)
    spoil(tmp_path)
    assert score(task, tmp_path / "out/scores.json", *argv, *options) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"{task} score: ") and message in said and "\n" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["voc_linear", "ade_linear", "voc_clustering", "retrieval", "foreground"])
def test_a_list_wants_every_picture(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = label_maps(tmp_path)
    argv += [] if task in ("ade_linear", "foreground") else CLASSES
    (tmp_path / "pred/._a.png").write_text("what a Mac leaves in archives")
    (tmp_path / "list.txt").write_text("c\na\n")
    out = tmp_path / "o.json"
    assert score(task, out, *argv, "--set", tmp_path / "list.txt") == 0
    found = json.loads(out.read_text())
    assert found.get("n", len(found.get("pictures", []))) == 2
    (tmp_path / "pred/c.png").unlink()
    assert score(task, tmp_path / "none.json", *argv, "--set", tmp_path / "list.txt") == 2
    assert "1 of 2 listed pictures have no map, first c" in capsys.readouterr().err


def test_16_bit_label_maps_of_small_labels_are_read(tmp_path: Path) -> None:
    """As the official DAVIS code reads them; a label beyond 8 bits is not cut to another one."""
    labels = np.array([[0, 1], [2, 255]], np.uint16)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert np.array_equal(read_index(tmp_path / "a.png"), labels)
    Image.fromarray(labels * 2).save(tmp_path / "a.png")
    with pytest.raises(StageError, match="label 510 in a 16-bit picture, labels are 0 to 255"):
        read_index(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["taken", "taken/scores.json"])
def test_a_place_that_cannot_be_written(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder where the file should be, a file where its folder should be; nothing of the user's changes."""
    if place == "taken":
        (tmp_path / place).mkdir()
    else:
        (tmp_path / "taken").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert score("voc_linear", tmp_path / place, *label_maps(tmp_path / "maps"), *CLASSES) == 2
    assert "\n" not in capsys.readouterr().err.strip()
    assert sorted(p for p in tmp_path.rglob("*") if "maps" not in p.parts) == before
