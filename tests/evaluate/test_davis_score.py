"""Scores of folders and the stand-alone command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.common.errors import StageError
from components.evaluate import davis_metrics as dm
from components.evaluate.davis_score import Scores, columns, score_folders
from components.evaluate.images import read_index
from tests.evaluate.small import davis, real_data, write_image, write_labels
from tests.evaluate.test_davis_metrics import literal_f, literal_j, scene


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return davis(tmp_path / "gt") / "Annotations/480p"


@pytest.fixture
def predicted(masks: Path, tmp_path: Path) -> Path:
    """The true masks of the frame before."""
    for sequence in masks.iterdir():
        files = sorted(sequence.iterdir())
        for before, file in zip([files[0], *files[:-1]], files, strict=True):
            write_labels(tmp_path / "pred" / sequence.name / file.name, read_index(before))
    return tmp_path / "pred"


def test_masks_of_davis_2016(tmp_path: Path) -> None:
    """0 and 255, the object absent at first: the literal rendition of every frame but the first and the last."""
    rng = np.random.default_rng(0)
    truth, predicted = ([scene(rng, 30, 40, 3) > 0 for _ in range(5)] for _ in range(2))
    truth[0][:] = False
    for t, pair in enumerate(zip(truth, predicted, strict=True)):
        for folder, mask in zip(("gt", "pred"), pair, strict=True):
            write_image(tmp_path / folder / f"a/{t:05d}.png", mask.astype(np.uint8) * 255)
    figures = score_folders(tmp_path / "gt", tmp_path / "pred", binary=True).summary()
    middle = list(zip(truth, predicted, strict=True))[1:-1]
    assert figures["j_mean"] == pytest.approx(np.mean([literal_j(*pair) for pair in middle]), abs=1e-12)
    assert figures["f_mean"] == pytest.approx(np.mean([literal_f(*pair) for pair in middle]), abs=1e-12)
    with pytest.raises(StageError, match="masks of 0 and 255, as DAVIS-2016 has them, are scored by"):
        score_folders(tmp_path / "gt", tmp_path / "gt", ["a"])


def test_decay_that_eight_bits_leave_without_frames() -> None:
    """300 scored frames: the last quarter would end at frame 43. The other figures stand, JSON holds no NaN."""
    values = np.where(np.arange(300) < 99, 0.5, 1.0)
    whole, bits = (Scores([columns("j", values, how) | columns("f", values, how)]) for how in ("whole", "eight_bits"))
    assert whole.summary()["j_decay"] == -0.5
    assert bits.objects[0]["j_decay"] is None and bits.objects[0]["j_mean"] == whole.objects[0]["j_mean"]
    assert set(whole.summary()) - set(bits.summary()) == {"j_decay", "f_decay"}


def test_perfect_prediction(masks: Path) -> None:
    figures = score_folders(masks, masks).summary()
    assert figures["jf_mean"] == figures["j_mean"] == figures["f_mean"] == figures["j_recall"] == 1.0
    assert figures["j_decay"] == figures["f_decay"] == 0.0


def test_first_and_last_frame_do_not_count(masks: Path, predicted: Path) -> None:
    before = score_folders(masks, predicted)
    assert sorted({row["frame"] for row in before.frames}) == ["00001", "00002", "00003"]
    write_labels(predicted / "a/00000.png", np.ones((7, 7)))
    (predicted / "a/00004.png").unlink()
    assert score_folders(masks, predicted) == before


def test_means_are_over_objects(masks: Path, predicted: Path) -> None:
    for file in sorted((masks / "b").iterdir()):  # sequence b has object 1 only: 3 objects in all
        labels = read_index(file)
        write_labels(file, np.where(labels == 2, 0, labels))
        labels = read_index(predicted / "b" / file.name)
        write_labels(predicted / "b" / file.name, np.where(labels == 2, 0, labels))
    scores = score_folders(masks, predicted)
    assert [(row["sequence"], row["object"]) for row in scores.objects] == [("a", 1), ("a", 2), ("b", 1)]
    assert scores.summary()["j_mean"] == pytest.approx(np.mean([row["j_mean"] for row in scores.objects]))
    of_object = [row["j"] for row in scores.frames if (row["sequence"], row["object"]) == ("a", 2)]
    assert scores.objects[1]["j_mean"] == pytest.approx(np.mean(of_object))


def test_void_is_background_and_late_objects_are_not_scored(masks: Path) -> None:
    labels = read_index(masks / "a/00002.png")
    labels[0, :] = 255
    labels[-1, :] = 9  # enters after the first frame
    write_labels(masks / "a/00002.png", labels)
    predicted = masks.parent / "clean"
    shutil.copytree(masks, predicted)
    write_labels(predicted / "a/00002.png", np.where(labels > 2, 0, labels))
    scores = score_folders(masks, predicted)
    assert scores.summary()["jf_mean"] == 1.0
    assert max(row["object"] for row in scores.objects) == 2


def test_absent_id_below_the_largest_counts_as_an_object(masks: Path) -> None:
    """The official count is the largest id, so an id that never occurs scores 1 when it is never predicted."""
    for file in (masks / "a").iterdir():
        labels = read_index(file)
        write_labels(file, np.where(labels == 1, 3, labels))
    objects = score_folders(masks, masks, ["a"]).objects
    assert [row["object"] for row in objects] == [1, 2, 3]
    assert objects[0]["j_mean"] == 1.0


def test_bad_predictions_are_named(masks: Path, predicted: Path) -> None:
    write_labels(predicted / "a/00002.png", np.full((36, 52), 5))
    with pytest.raises(StageError, match=r"object 5 is predicted, but the sequence's first mask has 2: .*00002"):
        score_folders(masks, predicted)
    write_labels(predicted / "a/00002.png", np.zeros((36, 50)))
    with pytest.raises(StageError, match="the predicted mask is 50x36, the true one 52x36"):
        score_folders(masks, predicted)
    (predicted / "a/00002.png").unlink()
    with pytest.raises(StageError, match="a predicted mask is missing"):
        score_folders(masks, predicted)
    shutil.rmtree(predicted / "a")
    with pytest.raises(StageError, match="no masks of sequence a"):
        score_folders(masks, predicted)


def test_too_few_masks_and_no_objects(masks: Path) -> None:
    for name in ("00002", "00003", "00004"):
        (masks / "a" / f"{name}.png").unlink()
    with pytest.raises(StageError, match="sequence a has 2 masks"):
        score_folders(masks, masks)
    for file in (masks / "b").iterdir():
        write_labels(file, np.zeros((36, 52)))
    with pytest.raises(StageError, match="nothing to score"):
        score_folders(masks, masks, ["b"])


def command(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "components.evaluate.tasks.vos", "score", *map(str, argv)]
    return subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)


def test_command_on_files_alone(masks: Path, predicted: Path, tmp_path: Path) -> None:
    listed = tmp_path / "only.txt"
    listed.write_text("b\n")
    out = tmp_path / "scores.json"
    found = command("--gt", tmp_path / "gt", "--pred", predicted, "--json", out, "--set", listed)
    assert found.returncode == 0, found.stderr
    scores = json.loads(out.read_text())
    expected = score_folders(masks, predicted, ["b"])
    assert scores == {"metrics": expected.summary(), "objects": expected.objects, "frames": expected.frames}
    assert "jf_mean" in found.stdout


def test_command_needs_no_torch_and_explains_itself(tmp_path: Path, masks: Path) -> None:
    code = "import sys; import components.evaluate.tasks.vos; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
    found = command("--gt", masks, "--pred", tmp_path / "nowhere", "--json", tmp_path / "o.json")
    assert found.returncode == 2
    assert found.stderr.startswith("vos score: ") and "Traceback" not in found.stderr
    assert not (tmp_path / "o.json").exists()


def test_sparse_real_masks_with_a_late_object(tmp_path: Path) -> None:
    """PUMaVOS `caps`: 5 masks on 87 frames, the second object enters late, so only the first is scored."""
    root = real_data("pumavos") / "Annotations/480p"
    files = sorted((root / "caps").glob("*.png"))
    assert len(files) == 5
    assert int(read_index(files[-1]).max()) == 2 > dm.object_count(read_index(files[0]))
    with pytest.raises(StageError, match="object 2 is predicted, but the sequence's first mask has 1"):
        score_folders(root, root, ["caps"])
    for file in files:
        labels = read_index(file)
        write_labels(tmp_path / "caps" / file.name, np.where(labels == 1, 1, 0))
    scores = score_folders(root, tmp_path, ["caps"])
    assert {row["object"] for row in scores.objects} == {1}
    assert len(scores.frames) == 3
    assert scores.summary()["jf_mean"] == 1.0
