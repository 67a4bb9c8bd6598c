"""Lists of videos, a number of frames for each video, and its last frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.tcore_lists import find_entries, make_lists, write_lists
from components.extract_frames.extent import parse
from tests.download.miniatures import frames_and_masks, lines, picture
from tests.extract_frames.clips import Extraction, encode, numbered

FRAMES = {"source_fps": 4, "fps": 4, "short_side_px": 48}


def keys(store: Any) -> list[str]:
    return [row["key"] for row in store.videos.to_pylist()]


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        (["bear"], ["bear"]),  # DAVIS 2017
        (["480p/camel", "swan"], ["camel", "swan"]),
        (["/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png"], ["bear"]),  # DAVIS 2016
        (["ear", "camel"], ["camel"]),  # names, not letters
    ],
)
def test_a_list_names_videos_by_the_end_of_their_path(extraction: Extraction, rows: list[str], taken: list[str]):
    frames_and_masks(extraction.videos, {f"480p/{name}": 2 for name in ("bear", "camel", "swan")})
    lines(extraction.videos / "ImageSets/2017/train.txt", *rows, "")
    store = extraction.store(**FRAMES, labels={}, videos="ImageSets/2017/train.txt")
    assert [key.rpartition("/")[2] for key in keys(store)] == taken


def test_names_of_no_video_are_told_and_a_list_of_none_is_refused(extraction: Extraction, capsys: Any) -> None:
    picture(extraction.videos / "bear/0.jpg")
    lines(extraction.videos / "list.txt", "bear", "gone", "lost")
    assert extraction(**FRAMES, videos="list.txt") == 0
    assert "warning: 2 names of the list are of no video here: gone, lost" in capsys.readouterr().err
    lines(extraction.videos / "list.txt", "gone")
    assert extraction(**FRAMES, videos="list.txt") == 2
    assert "none of the 1 videos is named by this list of 1" in capsys.readouterr().err
    assert extraction(**FRAMES, videos="none.txt") == 2
    assert "no such list of videos" in capsys.readouterr().err


def test_the_entries_of_tcore_are_a_list(extraction: Extraction) -> None:
    for name in ("zumba/aaa", "zumba/bbb", "abseiling/aaa"):
        picture(extraction.videos / f"train/{name}/00000.jpg")
    some = [entry for entry in find_entries(extraction.videos / "train") if entry.video_id == "aaa"]
    write_lists(make_lists(some[1:], {"zumba": 1}), extraction.videos, "TRAIN")
    assert keys(extraction.store(**FRAMES, videos="entries-TRAIN.npy")) == ["train/zumba/aaa"]


def numbers(extraction: Extraction, **params: Any) -> dict[str, list[int]]:
    return {path: [row["number"] for row in rows] for path, rows in extraction.rows(**params)[1].items()}


def test_so_many_frames_of_each_video_evenly_spread(extraction: Extraction) -> None:
    for name, seconds in (("a.mp4", 2), ("b.mp4", 1), ("c.mkv", 2)):
        numbered(extraction.videos / name, seconds=seconds)
    numbered(extraction.videos / "few.mp4", seconds=0.16)  # 4 frames at 25 a second
    for frame in range(8):
        picture(extraction.videos / f"tree/{frame:05d}.jpg", frame)
    found = numbers(extraction, mode="count", count=5, source_fps=4)
    tree = found.pop("tree")
    assert len(tree) == 5
    for path, n in (("a.mp4", 50), ("b.mp4", 25), ("c.mkv", 50)):
        assert found[path] == [int(np.ceil(cell * n / 5)) for cell in range(5)]  # the first frame of each fifth
    assert found["few.mp4"] == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [[], ["-movflags", "+faststart"], ["-output_ts_offset", "3"]])
def test_the_last_frame_is_taken_wherever_it_lies(extraction: Extraction, options: list[str]) -> None:
    """VidOR at one frame a second and the last one: 2.2 s are frames 0, 25, 50, and 54."""
    numbered(extraction.videos / "a.mp4", *options, seconds=2.2)
    numbered(extraction.videos / "b.mp4", *options, seconds=2.04)  # 51 frames: the last one is taken anyway
    store = extraction.rows(mode="fps", fps=1, last_frame=True)[1]
    assert [row["frame"] for row in store["a.mp4"]] == [0, 25, 50, 54]
    assert [row["number"] for row in store["a.mp4"]] == [0, 25, 50, 54]
    assert [row["pts_s"] for row in store["a.mp4"]] == pytest.approx([0, 1, 2, 2.16], abs=2e-3)
    assert [row["number"] for row in store["b.mp4"]] == [0, 25, 50]


def test_the_last_frame_of_other_containers_and_of_folders(extraction: Extraction) -> None:
    numbered(extraction.videos / "a.mkv", seconds=1.2)
    encode(extraction.videos / "b.ts", "testsrc2=s=64x48:r=25:d=1.2")
    for frame in range(6):
        picture(extraction.videos / f"tree/{frame:05d}.jpg", frame)
    rows = extraction.rows(mode="fps", fps=1, last_frame=True, source_fps=4)[1]
    assert {path: [row["frame"] for row in found] for path, found in rows.items()} == {
        "a.mkv": [0, 25, 29],
        "b.ts": [0, 25, 29],
        "tree": [0, 4, 5],
    }


def test_a_listing_without_packets_has_no_extent(tmp_path: Path) -> None:
    assert parse(b"#tb 0: 1/25\n") is None
    assert parse(b"") is None
    one = parse(b"#tb 0: 1/25\n0,  0,  3,  1,  100, 0xabc\n")
    assert one is not None and one.length_s == pytest.approx(1 / 25)
    known = parse(b"#tb 0: 1/10\n0, -1, 0, 2, 9, 0x1\n0, 0, 4, 2, 9, 0x2, S=1\n0, 1, 2, 2, 9, 0x3\n")
    assert known is not None and (known.first_s, known.last_s, known.length_s) == pytest.approx((0, 0.4, 0.6))
