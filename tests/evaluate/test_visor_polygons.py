"""VISOR's polygons: which objects count, who lies over whom, and one line for each way a file is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.errors import StageError
from components.evaluate.layouts.video_masks import read_videos
from tests.evaluate.small import evaluate, write_image

Boxes = list[tuple[str, tuple[int, int, int, int]]]  # name; x0, y0, x1, y1, corners included, in pixels of 1920x1080
SMALL = 10  # the frames are as many times smaller

FRAMES: dict[str, list[Boxes]] = {
    "P01_01_seq_00001": [
        [("plate", (100, 100, 900, 700)), ("left hand", (500, 300, 1500, 900))],
        [("left hand", (400, 300, 1400, 900)), ("plate", (100, 100, 900, 700)), ("tap", (1600, 20, 1800, 400))],
        [("tap", (1600, 20, 1800, 400))],
    ],
    "P01_01_seq_00002": [[("pan", (0, 0, 1919, 1079))], [("pan", (200, 200, 700, 700))]],
    "P01_01_seq_00003": [[("pan", (0, 0, 400, 400))], []],
}


def segments(box: tuple[int, int, int, int]) -> list[list[list[float]]]:
    """A rectangle, its corners a fraction beyond whole pixels, and an empty polygon."""
    x0, y0, x1, y1 = box
    return [[[x0 + 0.9, y0 + 0.4], [x1 + 0.2, y0], [x1, y1 + 0.5], [x0, y1]], []]


def visor(root: Path, split: str = "val") -> Path:
    """Unpacked as the download is, its entries in no order."""
    entries: list[dict[str, Any]] = []
    number = 140
    for sequence, frames in FRAMES.items():
        for boxes in frames:
            name = f"P01_01_frame_{number:010d}.jpg"
            number += 60
            image = {"name": name, "video": "P01_01", "subsequence": sequence, "image_path": f"x/{name}"}
            told = [{"id": n, "name": n, "segments": segments(box)} for n, box in boxes]
            entries.insert(0, {"image": image, "annotations": [*told, {"name": "unseen", "segments": []}]})
            pixels = np.full((1080 // SMALL, 1920 // SMALL, 3), number % 200, np.uint8)
            write_image(root / f"rgb_frames/{split}/P01/P01_01" / name, pixels)
    file = root / f"annotations/{split}/P01_01.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"video_annotations": entries}))
    return root


def drawn(boxes: Boxes, ids: dict[str, int]) -> np.ndarray:
    """Each pixel of the frame looks at the one of the large picture that it is taken from, the last box wins."""
    out = np.zeros((1080 // SMALL, 1920 // SMALL), np.uint8)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for name, (x0, y0, x1, y1) in boxes:
                if name in ids and x0 <= SMALL * x <= x1 and y0 <= SMALL * y <= y1:
                    out[y, x] = ids[name]
    return out


def test_objects_of_the_first_frame_are_numbered_by_name(tmp_path: Path) -> None:
    videos = read_videos(visor(tmp_path), "visor", "2022/val")
    assert [(v.name, len(v.masks)) for v in videos] == [("P01_01_seq_00001", 2), ("P01_01_seq_00002", 2)]
    ids = {"left hand": 1, "plate": 2}  # the tap enters later, and the frame that shows it alone has no mask
    for number, boxes in enumerate(FRAMES["P01_01_seq_00001"][:2]):
        np.testing.assert_array_equal(videos[0].mask(number), drawn(boxes, ids))
    assert videos[0].frames[0].name == "P01_01_frame_0000000140.jpg"
    assert set(np.unique(videos[0].labels(0, 32))) == {0, 1, 2}


def test_in_train_every_object_counts(tmp_path: Path) -> None:
    (video,) = read_videos(visor(tmp_path / "GroundTruth-SparseAnnotations", "train").parent, "visor", "train")
    assert (video.name, len(video.masks)) == ("P01_01_seq_00001", 3)  # the others have fewer than three masks
    ids = {"left hand": 1, "plate": 2, "tap": 3}
    for number, boxes in enumerate(FRAMES["P01_01_seq_00001"]):
        np.testing.assert_array_equal(video.mask(number), drawn(boxes, ids))


def test_the_evaluation_reads_them(model: Path, tmp_path: Path) -> None:
    root = visor(tmp_path / "b")
    assert evaluate(tmp_path, "video_clustering", model, root, layout="visor", split="val") == 0
    assert "visor val: 2 videos, 4 frames" in json.loads((tmp_path / "out.json").read_text())["data_variant"]


def test_wanted_videos(tmp_path: Path) -> None:
    root = visor(tmp_path)
    (tmp_path / "mine.txt").write_text("P01_01_seq_00002\n")
    assert [v.name for v in read_videos(root, "visor", "val", "mine.txt")] == ["P01_01_seq_00002"]
    (tmp_path / "mine.txt").write_text("P01_01_seq_00009\n")
    with pytest.raises(StageError, match="P01_01_seq_00009 is listed but has no masks"):
        read_videos(root, "visor", "val", "mine.txt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not readable as JSON"),
        ("[]", "not VISOR's annotations"),
        ('{"video": 1}', "not VISOR's annotations, no 'video_annotations'"),
        ('{"video_annotations": [{"image": {"name": "../x.jpg", "subsequence": "s"}, "annotations": []}]}', "named"),
        (
            '{"video_annotations": [{"image": {"name": "x.jpg", "subsequence": "s"}, '
            '"annotations": [{"name": "a", "segments": [[1, 2, 3]]}]}]}',
            "a polygon must be a list of",
        ),
    ],
)
def test_broken_annotations(content: str, said: str, tmp_path: Path) -> None:
    root = visor(tmp_path)
    (root / "annotations/val/P01_01.json").write_text(content)
    with pytest.raises(StageError, match=said):
        read_videos(root, "visor", "val")


def test_broken_layouts(tmp_path: Path) -> None:
    root = visor(tmp_path)
    with pytest.raises(StageError, match=r"no annotations of split 'test': .*annotations/test"):
        read_videos(root, "visor", "test")
    (root / "rgb_frames/val/P01/P01_01/P01_01_frame_0000000140.jpg").unlink()
    with pytest.raises(StageError, match=r"frame P01_01_frame_0000000140.jpg of video P01_01 is missing"):
        read_videos(root, "visor", "val")
    (root / "rgb_frames/val/P01/P01_01.zip").write_bytes(b"")
    with pytest.raises(StageError, match=r"archive .*P01_01.zip"):
        read_videos(root, "visor", "val")
