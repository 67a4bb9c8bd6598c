"""T-CoRe's index files against a literal rendition of its dump tool."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from components.common.errors import StageError
from components.common.tcore_lists import (
    Entry,
    find_entries,
    make_lists,
    read_entries,
    read_labels,
    read_lists,
    write_lists,
)

TREE = {
    "zumba": ["bbbbbbbbbbb_000000_000010", "aaaaaaaaaaa_000005_000015"],
    "abseiling": ["ccccccccccc_000001_000011"],
    "air_drumming": ["ddddddddddd_000002_000012"],
}
LABELS = "399,zumba\n5,air_drumming\n0,abseiling\n290,sharpening_knives\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, videos in TREE.items():
        for number, video in enumerate(videos):
            place = tmp_path / "frames/train" / name
            place.mkdir(parents=True, exist_ok=True)
            if number:  # a file of a video; the others are folders of frames
                (place / f"{video}.mp4").touch()
            else:
                (place / video).mkdir()
    (tmp_path / "labels.txt").write_text(LABELS)
    return tmp_path


def literally() -> list[tuple[str, int, str, str]]:
    """As the released tool: an image folder's order, ids by name from labels.txt."""
    numbers = {name: number for number, name in csv.reader(LABELS.splitlines())}
    rows = []
    for index, name in enumerate(sorted(TREE)):
        rows += [(video, index, f"class_{numbers[name]}", name) for video in sorted(TREE[name])]
    return rows


def test_lists_are_those_of_the_released_tool(root: Path) -> None:
    lists = make_lists(find_entries(root / "frames/train"), read_labels(root / "labels.txt"))
    write_lists(lists, root, "TRAIN")
    entries = np.load(root / "entries-TRAIN.npy", mmap_mode="r", allow_pickle=False)
    assert entries.tolist() == literally()
    assert entries.dtype["video_id"] == np.dtype("<U25")
    assert entries.dtype["class_index"] == np.dtype("<u4")
    assert np.load(root / "class-names-TRAIN.npy", allow_pickle=False).tolist() == sorted(TREE)
    assert np.load(root / "class-ids-TRAIN.npy", allow_pickle=False).tolist() == ["class_0", "class_5", "class_399"]


def test_lists_of_the_released_tool_are_read(tmp_path: Path) -> None:
    """Written here as it writes them, without our code."""
    kinds = [("video_id", "U25"), ("class_index", np.uint32), ("class_id", "U9"), ("class_name", "U12")]
    np.save(tmp_path / "entries-TRAIN.npy", np.array(literally(), dtype=kinds))
    np.save(tmp_path / "class-ids-TRAIN.npy", np.array(["class_0", "class_5", "class_399"]))
    np.save(tmp_path / "class-names-TRAIN.npy", np.array(sorted(TREE)))
    lists = read_lists(tmp_path, "TRAIN")
    assert lists.class_names[lists.entries["class_index"]].tolist() == lists.entries["class_name"].tolist()
    assert read_entries(tmp_path / "entries-TRAIN.npy")[0] == Entry("ccccccccccc_000001_000011", "abseiling")


def test_bad_lists_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "entries-A.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StageError, match="not an array without pickles"):
        read_entries(tmp_path / "entries-A.npy")
    np.save(tmp_path / "entries-B.npy", np.arange(3))
    with pytest.raises(StageError, match="expected a structured array of video_id"):
        read_entries(tmp_path / "entries-B.npy")
    with pytest.raises(StageError, match="no such list"):
        read_entries(tmp_path / "entries-C.npy")
    with pytest.raises(StageError, match=r"1 of 1 class folders are not in labels\.txt: yoga"):
        make_lists([Entry("x", "yoga")], {"zumba": 1})


@pytest.mark.parametrize("text", ["zumba,399\n", "1,a\n2,a\n", "1;a\n"])
def test_a_list_of_classes_that_is_wrong_names_the_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(StageError, match=r"expected `number,name_of_class`.*, line \d"):
        read_labels(tmp_path / "labels.txt")
