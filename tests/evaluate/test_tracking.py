"""Boxes: overlaps, AO and SR against literal renditions, the layout's errors, the task and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import StageError
from components.evaluate.layouts.got10k import read_boxes, read_got10k, read_track
from components.evaluate.tasks import tracking
from components.evaluate.tracking_score import overlaps, score_tracks
from tests.evaluate.small import evaluate
from tests.evaluate.small_videos import got10k


def literal_overlap(a: list[float], b: list[float], bound: tuple[int, int]) -> float:
    """One pair of boxes, side by side, after both are cut to the frame."""
    sides = []
    for x, y, w, h in (a, b):
        x, y = min(max(x, 0.0), bound[0]), min(max(y, 0.0), bound[1])
        sides.append((x, y, min(max(w, 0.0), bound[0] - x), min(max(h, 0.0), bound[1] - y)))
    (x, y, w, h), (u, v, s, t) = sides
    across = max(0.0, min(x + w, u + s) - max(x, u))
    down = max(0.0, min(y + h, v + t) - max(y, v))
    union = w * h + s * t - across * down
    return across * down / (union + np.finfo(float).eps)  # so that two empty boxes give 0


box = st.tuples(st.floats(-30, 120), st.floats(-30, 90), st.floats(-5, 150), st.floats(-5, 150))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=5))
def test_overlaps_equal_the_literal_ones(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    truth, predicted = (np.array(boxes) for boxes in zip(*pairs, strict=True))
    expected = [literal_overlap(list(a), list(b), (100, 70)) for a, b in pairs]
    np.testing.assert_allclose(overlaps(truth, predicted, (100, 70)), expected, atol=1e-9)


def write_predicted(root: Path, folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for track, _ in read_got10k(root):
        found[track.name] = track.boxes + rng.normal(0, 4, track.boxes.shape).round(3)
        tracking.write_boxes(folder / track.name / f"{track.name}_001.txt", found[track.name])
    return found


def test_ao_and_sr_equal_the_literal_ones(tmp_path: Path) -> None:
    """Frames from the second on in which the object can be seen, all videos together."""
    root = got10k(tmp_path / "b")
    found = write_predicted(root, tmp_path / "pred")
    values = []
    for track, _ in read_got10k(root):
        for t in range(1, len(track.boxes)):
            overlap = literal_overlap(track.boxes[t].tolist(), found[track.name][t].tolist(), (52, 36))
            values += [overlap] if track.cover[t] > 0 else []
    assert len(values) == 4 + 3
    summary = score_tracks([track for track, _ in read_got10k(root)], tmp_path / "pred").summary()
    assert summary["ao"] == pytest.approx(np.mean(values), abs=1e-9)
    for threshold in (0.5, 0.75):
        assert summary[f"sr_{threshold}"] == pytest.approx(np.mean([v > threshold for v in values]), abs=1e-9)


def test_repetitions_count_together_and_the_first_box_not_at_all(tmp_path: Path) -> None:
    root = got10k(tmp_path / "b", names=("GOT-10k_Val_000001",))
    (track,) = (track for track, _ in read_got10k(root))
    perfect, off = track.boxes.copy(), np.zeros_like(track.boxes)
    perfect[0] = 0
    for k, boxes in enumerate((perfect, off), start=1):
        tracking.write_boxes(tmp_path / "p" / track.name / f"{track.name}_{k:03d}.txt", boxes)
    (tmp_path / "p" / track.name / f"{track.name}_time.txt").write_text("0.1\n")
    found = score_tracks([track], tmp_path / "p")
    assert found.summary() == pytest.approx({"ao": 0.5, "sr_0.5": 0.5, "sr_0.75": 0.5, "ao_sequences": 0.5})
    assert found.sequences[0]["scored"] == 8


def test_masks_of_boxes_and_boxes_of_masks() -> None:
    mask = tracking.box_mask(np.array([3.0, 6.0, 16.0, 18.0]), (52, 36))
    assert mask.sum() == 16 * 18
    assert tracking.mask_box(mask, "mask").tolist() == [3, 6, 16, 18]  # type: ignore[union-attr]
    assert tracking.box_mask(np.array([50.2, 35.4, 9.0, 9.0]), (52, 36)).sum() == 2  # cut by the frame
    assert tracking.box_mask(np.array([7.4, 7.4, 0.1, 0.1]), (52, 36)).sum() == 1  # never empty
    assert tracking.box_mask(np.array([60.0, 50.0, 5.0, 5.0]), (52, 36)).sum() == 1
    mask[30, 50] = 1
    assert tracking.mask_box(mask, "mask").tolist() == [3, 6, 48, 25]  # type: ignore[union-attr]
    assert tracking.mask_box(mask, "largest_piece").tolist() == [3, 6, 16, 18]  # type: ignore[union-attr]
    for what in ("mask", "largest_piece"):
        assert tracking.mask_box(np.zeros((5, 5), np.uint8), what) is None


def test_layout(tmp_path: Path) -> None:
    found = read_got10k(got10k(tmp_path))
    assert [(t.name, len(f), t.cover.tolist()) for t, f in found] == [
        ("GOT-10k_Val_000001", 5, [8] * 5),
        ("GOT-10k_Val_000002", 5, [8, 8, 0, 8, 8]),
    ]
    folder = tmp_path / "val/GOT-10k_Val_000001"
    assert found[0][0].bound == (52, 36)
    (folder / "meta_info.ini").unlink()
    (folder / "cover.label").unlink()
    track = read_track(folder)
    assert track.bound == (52, 36) and track.cover.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "00000005.jpg").unlink(), "sequence GOT-10k_Val_000001 has 4 frames and 5 boxes"),
        (lambda f: (f / "groundtruth.txt").write_text("1,2,3\n"), "line 1 must be 4 numbers: 1,2,3"),
        (lambda f: (f / "groundtruth.txt").write_text("1,2,3,4\n1,2,3,nan\n"), "line 2 must be 4 numbers"),
        (lambda f: (f / "groundtruth.txt").write_text("\n"), "the file is empty"),
        (lambda f: (f / "groundtruth.txt").unlink(), "no such file: .*groundtruth.txt"),
        (lambda f: (f / "cover.label").write_text("8\n8\n"), "2 lines for 5 boxes: .*cover.label"),
        (lambda f: (f / "groundtruth.txt").write_text("1,2,0,4\n" * 5), "the first box is empty"),
        (lambda f: shutil.rmtree(f), "sequence GOT-10k_Val_000001 is listed but has no folder"),
        (lambda f: (f.parent / "list.txt").unlink(), "no such list"),
        (lambda f: f.parent.rename(f.parents[1] / "test"), "not in GOT-10k layout, no val folder"),
    ],
)
def test_broken_layouts(harm, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    harm(got10k(tmp_path) / "val/GOT-10k_Val_000001")
    with pytest.raises(StageError, match=message):
        read_got10k(tmp_path)


def test_bad_predictions(tmp_path: Path) -> None:
    tracks = [track for track, _ in read_got10k(got10k(tmp_path / "b"))]
    with pytest.raises(StageError, match="no boxes of sequence GOT-10k_Val_000001"):
        score_tracks(tracks, tmp_path / "p")
    tracking.write_boxes(tmp_path / "p" / tracks[0].name / f"{tracks[0].name}_001.txt", tracks[0].boxes[:3])
    with pytest.raises(StageError, match="3 boxes, sequence GOT-10k_Val_000001 has 5 frames"):
        score_tracks(tracks, tmp_path / "p")


def test_task_and_command_agree(model: Path, tmp_path: Path) -> None:
    root = got10k(tmp_path / "b")
    assert evaluate(tmp_path, "tracking", model, root) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["primary"] == "ao" and set(found["metrics"]) == {"ao", "sr_0.5", "sr_0.75", "ao_sequences"}
    assert found["data_variant"] == "val: 2 sequences, 10 frames, 7 scored"
    name = "GOT-10k_Val_000001"
    boxes = read_boxes(tmp_path / "out/predictions" / name / f"{name}_001.txt")
    assert boxes.shape == (5, 4) and boxes[0].tolist() == [3, 6, 16, 18]
    assert pq.read_table(tmp_path / "out/details.parquet").to_pylist()[0]["sequence"] == name
    with Image.open(tmp_path / f"out/{name}.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5
    argv = ["score", "--gt", root, "--pred", tmp_path / "out/predictions", "--json", tmp_path / "s.json"]
    assert tracking.score_main("tracking", "", tracking._arguments, tracking._score, [str(word) for word in argv]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["metrics"] == found["metrics"]
