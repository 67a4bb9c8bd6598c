"""Masks beside frames: DAVIS, YouTube-VOS and their like, at any depth, from frame folders and from video files."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.extract_frames.palette import Names
from tests.download import miniatures
from tests.download.miniatures import labels, mask, video
from tests.extract_frames.clips import Extraction

FRAMES = {"source_fps": 6, "fps": 6, "short_side_px": 48, "cuts": None}


def objects(store: Any) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """video key -> frame number -> its objects."""
    keys = [row["key"] for row in store.videos.to_pylist()]
    told: dict[str, dict[int, list[dict[str, Any]]]] = {key: {} for key in keys}
    for row in store.objects.to_pylist():
        told[keys[row["video"]]].setdefault(row["frame"], []).append(row)
    return told


def label_map(store: Any, row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(store.read(row["shard"], row["offset"], row["size"]))))


@pytest.mark.parametrize("above", ["", "a/b/"])
def test_masks_are_joined_by_name_at_any_depth(extraction: Extraction, above: str) -> None:
    root = extraction.videos / above
    miniatures.frames_and_masks(root, {"480p/bear": 4, "480p/camel": 3}, step=5)  # 00000, 00005, ...
    store = extraction.store(**FRAMES, labels={})
    told = objects(store)
    assert set(told) == {f"{above}JPEGImages/480p/bear", f"{above}JPEGImages/480p/camel"}  # no mask is a frame
    for key, count in ((f"{above}JPEGImages/480p/bear", 4), (f"{above}JPEGImages/480p/camel", 3)):
        assert sorted(told[key]) == list(range(count))
        for number, rows in told[key].items():
            assert [(row["track"], row["category"]) for row in rows] == [(0, "object"), (1, "object")]
            assert [row["x0"] for row in rows] == [4 + number, 24 + number]
            assert (rows[0]["y0"], rows[0]["y1"], rows[0]["x1"]) == (8, 24, 16 + number)
            np.testing.assert_array_equal(label_map(store, rows[0]), labels(shift=number))


def test_void_is_no_object_unless_it_is_one(extraction: Extraction) -> None:
    miniatures.frames_and_masks(extraction.videos, {"bear": 2}, values=(1, 255))
    told = objects(extraction.store(**FRAMES, labels={}))["JPEGImages/bear"]
    assert [row["track"] for row in told[0]] == [0]
    shutil.rmtree(extraction.place)
    told = objects(extraction.store(**FRAMES, labels={"void": None}))[
        "JPEGImages/bear"
    ]  # DAVIS 2016: 255 is the object
    assert [row["track"] for row in told[0]] == [0, 254]


def names(*, videos: dict[str, dict[str, str]]) -> str:
    told = {v: {"objects": {n: {"category": c} for n, c in objects.items()}} for v, objects in videos.items()}
    return json.dumps({"videos": told})


def test_categories_come_from_meta_json(extraction: Extraction) -> None:
    miniatures.frames_and_masks(extraction.videos / "train", {"v1": 2, "v2": 2}, values=(1, 2, 3))
    meta = names(videos={"v1": {"1": "zebra", "2": "ape", "3": "ape"}, "v2": {"1": "person"}})
    (extraction.videos / "train/meta.json").write_text(meta)
    told = objects(extraction.store(**FRAMES, labels={}))
    named = [row["category"] for row in told["train/JPEGImages/v1"][0]]
    assert named == ["zebra", "ape", "ape"]
    assert [row["category"] for row in told["train/JPEGImages/v2"][0]] == ["person", "object", "object"]


def test_classes_are_ranks_in_the_sorted_set_of_the_file(extraction: Extraction) -> None:
    """TimeT's rule: ape 1, person 2, zebra 3; two apes are one track of two squares."""
    miniatures.frames_and_masks(extraction.videos / "train", {"v1": 1, "v2": 1}, values=(1, 2, 3))
    meta = names(videos={"v1": {"1": "zebra", "2": "ape", "3": "ape"}, "v2": {"1": "person"}})
    (extraction.videos / "train/meta.json").write_text(meta)
    store = extraction.store(**FRAMES, labels={"values": "category"})
    rows = objects(store)["train/JPEGImages/v1"][0]
    assert [(row["track"], row["category"]) for row in rows] == [(0, "ape"), (2, "zebra")]
    own = labels(values=(1, 2, 3))
    literal = np.zeros_like(own)
    for value, number in ((1, 3), (2, 1), (3, 1)):
        literal[own == value] = number
    np.testing.assert_array_equal(label_map(store, rows[0]), literal)
    (row,) = objects(store)["train/JPEGImages/v2"][0]
    assert (row["track"], row["category"]) == (1, "person")


def test_the_table_has_one_entry_a_value() -> None:
    read = Names({"v": {1: "b", 7: "a"}, "w": {2: "c"}})
    table = read.table("v", 255, by_category=True)
    assert (table[1], table[7], table[2], table[255]) == (2, 1, 0, 0)
    kept = read.table("v", 255, by_category=False)
    assert kept[:255].tolist() == list(range(255)) and kept[255] == 0


def test_a_video_where_frames_were_expected(extraction: Extraction, capsys: pytest.CaptureFixture[str]) -> None:
    """JPEGImages holds a file and a folder of frames, told apart by content; masks count the file's frames."""
    root = extraction.videos
    video(root / "JPEGImages/480p/bear.mp4", 1, 10)
    for number in (0, 5):
        mask(root / f"Annotations/480p/bear/{number:05d}.png", labels(shift=number))
    miniatures.frames_and_masks(root, {"480p/camel": 3})
    told = objects(extraction.store(**{**FRAMES, "fps": 2, "source_fps": 2}, labels={}))
    assert {frame: rows[0]["x0"] for frame, rows in told["JPEGImages/480p/bear"].items()} == {0: 4, 5: 9}
    assert len(told["JPEGImages/480p/camel"]) == 3
    assert (root / "JPEGImages/480p/bear.mp4").exists()


def test_masks_that_cannot_be_used_are_told_and_the_rest_goes_on(extraction: Extraction, capsys: Any) -> None:
    root = extraction.videos
    miniatures.frames_and_masks(root, {"a": 2, "b": 2, "c": 2, "d": 2})
    mask(root / "Annotations/a/00009.png", labels())  # no such frame
    (root / "Annotations/b/00001.png").write_bytes(b"not a picture")
    mask(root / "Annotations/c/00000.png", labels(size=(48, 64)))  # on its side
    Image.new("RGB", (64, 48)).save(root / "Annotations/d/00000.png")
    assert extraction(**FRAMES, labels={}) == 2  # 3 of 4, where half may be so
    assert "the annotations of 3 of 4 videos cannot be used, 2 may be so: JPEGImages/b (" in capsys.readouterr().err
    assert not extraction.place.exists()
    told = objects(extraction.store(**FRAMES, labels={}, max_bad_share=0.75))
    assert {key[-1]: len(frames) for key, frames in told.items()} == {"a": 2, "b": 0, "c": 0, "d": 0}
    said = capsys.readouterr().err
    assert "JPEGImages/a: 1 masks belong to no frame, such as 00009.png" in said
    assert "no objects for JPEGImages/b: 00001.png cannot be read" in said
    assert "no objects for JPEGImages/c: 00000.png is of a picture of 48x64, the frames are 64x48" in said
    assert "no objects for JPEGImages/d: 00000.png is a picture of mode RGB, no mask" in said


@pytest.mark.parametrize("meta", ['{"videos": {"v": {"obj', '{"videos": {"v": {}}}', "[]"])
def test_categories_that_do_not_parse_are_one_line(extraction: Extraction, meta: str, capsys: Any) -> None:
    miniatures.frames_and_masks(extraction.videos, {"v": 1})
    (extraction.videos / "meta.json").write_text(meta)
    assert extraction(**FRAMES, labels={}) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("extract_frames: not YouTube-VOS's list of categories, ")
    assert extraction(**FRAMES, labels={"categories": None}) == 0


def test_no_masks_at_all_is_an_error(extraction: Extraction, capsys: Any) -> None:
    miniatures.picture(extraction.videos / "JPEGImages/v/0.jpg")
    assert extraction(**FRAMES, labels={}) == 2
    assert "no folder 'Annotations' has masks of these videos" in capsys.readouterr().err
    assert extraction(**FRAMES, labels={}, tracks="x") == 2
    assert "from `tracks` or from `labels`" in capsys.readouterr().err


def test_sparse_masks_leave_other_frames_without_objects(extraction: Extraction, capsys: Any) -> None:
    """YouTube-VOS's validation set; and a video of which no mask is there."""
    miniatures.youtube_vos(extraction.root / "packed", extraction.videos)
    miniatures.picture(extraction.videos / "valid/JPEGImages/ffff/00000.jpg")
    told = objects(extraction.store(**FRAMES, labels={}))
    said = capsys.readouterr().err
    assert "1 of 12 videos have no masks: valid/JPEGImages/ffff" in said
    assert "3 frames of 1 videos have no mask, others of them have one" in said
    assert sorted(told["valid/JPEGImages/00f88c4f0a"]) == [0]
    assert sorted(told["train/JPEGImages/03a4d5c8b2"]) == [0, 1, 2, 3, 4]
    assert [row["category"] for row in told["train/JPEGImages/01a4d5c8b2"][0]] == ["ape", "person"]
    assert Path(extraction.videos / "train/JPEGImages/03a4d5c8b2/00020.jpg").exists()
