"""Tracks beside the videos: read, joined to the frames by time, written into the store, the same in parts."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import ExitCode, StageError
from components.common.frame_store import FrameStore
from components.extract_frames.annotations import Annotation, find_tracks, read_annotation
from components.extract_frames.objects import join
from tests.extract_frames.clips import numbered

SIZE = {"width": 64, "height": 48}


def document(trajectories, fps=25.0, categories=None, **size):
    """VidOR's JSON; `trajectories` holds (tid, xmin, ymin, xmax, ymax) of each frame."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    tids = sorted({entry[0] for entries in trajectories for entry in entries})
    categories = categories or {tid: f"kind {tid % 2}" for tid in tids}
    return {
        **(size or SIZE),
        "fps": fps,
        "subject/objects": [{"tid": tid, "category": name} for tid, name in categories.items()],
        "trajectories": [
            [{"tid": tid, "bbox": dict(zip(sides, box, strict=True)), "generated": 0} for tid, *box in entries]
            for entries in trajectories
        ],
    }


def write(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))


def moving(n):
    """Track 3 moves by a pixel a frame, track 0 comes at frame 10."""
    return [[(3, k, 8, k + 10, 20), *([(0, 40, 30, 64, 48)] if k >= 10 else [])] for k in range(n)]


def objects_by_frame(store):
    rows = store.objects.to_pylist()
    keys = store.videos["key"].to_pylist()
    found = {}
    for row in rows:
        box = (row["x0"], row["y0"], row["x1"], row["y1"])
        found.setdefault((keys[row["video"]], row["frame"]), []).append((row["track"], row["category"], box))
    return found


def test_frames_take_the_boxes_of_their_own_time(extraction):
    numbered(extraction.videos / "a.mp4")  # 50 frames
    numbered(extraction.videos / "b.mp4")
    write(extraction.videos / "annotations" / "deep" / "a.json", document(moving(50)))
    store = extraction.store(fps=5.0, short_side_px=24, tracks="annotations")
    found = objects_by_frame(store)
    frames = [row["frame"] for row in store.frames.to_pylist() if row["video"] == 0]
    assert frames == list(range(0, 50, 5))
    for k in frames:
        expected = [(0, "kind 0", (20, 15, 32, 24))] if k >= 10 else []
        expected += [(3, "kind 1", (k / 2, 4, k / 2 + 5, 10))]  # half the size, rising tracks
        assert found.pop(("a", k)) == expected
    assert not found  # b has none
    assert store.manifest["objects"] == 18


def test_sparse_annotation_reaches_half_a_step(extraction):
    numbered(extraction.videos / "a.mp4")
    write(extraction.videos / "t" / "a.json", document([[(1, 0, 0, 8, 8)], [(1, 32, 0, 40, 8)]], fps=1.0))
    found = objects_by_frame(extraction.store(fps=5.0, tracks="t"))
    starts = {frame / 25: boxes[0][2][0] for (_, frame), boxes in found.items()}
    assert starts == {t: (0 if t < 0.5 else 32) for t in (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)}


def test_label_maps_give_pixels_and_their_boxes(extraction):
    numbered(extraction.videos / "a.mp4")
    tracks = [[(4, 0, 0, 64, 48), (300, 0, 0, 64, 48), (7, 0, 0, 9, 9)] for _ in range(50)]
    write(extraction.videos / "annotations" / "a.json", document(tracks))
    labels = np.zeros((48, 64), np.uint16)
    labels[10:20, 30:50], labels[40:, :6], labels[0, 0] = 5, 301, 99  # 99: no track of the JSON
    file = extraction.videos / "masks" / "a" / "0025.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(labels).save(file)
    store = extraction.store(fps=1.0, short_side_px=24, tracks="annotations", masks="masks")
    first, second = store.objects.to_pylist()[:3], store.objects.to_pylist()[3:]
    assert [row["track"] for row in first] == [4, 7, 300] and all(row["size"] is None for row in first)
    assert [(row["track"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in second] == [
        (4, 15, 5, 25, 10),
        (300, 0, 20, 3, 24),
    ]  # 7 has no pixel
    read = np.asarray(Image.open(io.BytesIO(store.read(*(second[0][name] for name in ("shard", "offset", "size"))))))
    expected = labels[1::2, 1::2] * (labels[1::2, 1::2] != 99)
    np.testing.assert_array_equal(read, expected)


def test_the_frames_are_those_of_a_store_without_objects(extraction):
    numbered(extraction.videos / "a.mp4")
    write(extraction.videos / "annotations" / "a.json", document(moving(50)))
    told = {f.name: f.read_bytes() for f in extraction.store(tracks="annotations").path.iterdir()}
    plain = {f.name: f.read_bytes() for f in extraction.store().path.iterdir()}
    assert set(told) - set(plain) == {"objects.parquet"}
    assert {name for name in plain if told[name] != plain[name]} <= {"store.json", ".longtake.json"}  # they hold hashes
    assert FrameStore(extraction.place).objects is None


def test_what_cannot_be_used_is_told_and_left_out(extraction, capsys):
    for name in "abcdef":
        numbered(extraction.videos / f"{name}.mp4", seconds=1)
    notes = extraction.videos / "annotations"
    write(notes / "a.json", "{")
    write(notes / "b.json", document(moving(25), width=48, height=64))
    write(notes / "c.json", document(moving(25), categories={3: "cat"}))
    write(notes / "d.json", document(moving(25), fps=1.0))
    boxes = [(1, -5, -5, 8, 8), (2, 70, 0, 80, 8), (1, 1, 1, 2, 2), (5, 60, 40, 90, 90), (6, 3, 3, 3, 9)]
    write(notes / "e.json", document([boxes] * 25))
    write(notes / "missing.json", document(moving(25)))
    store = extraction.store(fps=1.0, tracks="annotations", max_bad_share=0.7)
    assert objects_by_frame(store) == {("e", 0): [(1, "kind 1", (0, 0, 8, 8)), (5, "kind 1", (60, 40, 64, 48))]}
    said = capsys.readouterr().err
    for line in (
        "no objects for a.mp4: a.json: Invalid JSON",
        "no objects for b.mp4: b.json: its boxes are of a picture of 48x64, the video shows 64x48",
        "no objects for c.mp4: c.json: trajectories hold track 0, which subject/objects does not name",
        "no objects for d.mp4: d.json: it tells of 25.0 s, the video has 1.0 s",
        "3 boxes were left out",
        "1 track files belong to no video here: missing.json",
    ):
        assert line in said, line


def test_tracks_of_videos_that_were_not_chosen_are_no_strays(extraction, capsys):
    for name in "abc":
        numbered(extraction.videos / f"{name}.mp4", seconds=1)
        for place in ("", "again/") if name == "c" else ("",):  # two tell of one that nobody wants
            write(extraction.videos / "annotations" / f"{place}{name}.json", document(moving(25)))
    (extraction.videos / "annotations/stray.json").write_text("{}")
    (extraction.videos / "list.txt").write_text("a\n")
    assert len(extraction.store(tracks="annotations", videos="list.txt").videos) == 1
    assert "1 track files belong to no video here: stray.json" in capsys.readouterr().err


def test_a_folder_that_is_missing(extraction, capsys):
    numbered(extraction.videos / "a.mp4")
    assert extraction(tracks="annotations") == ExitCode.BAD_INPUT
    assert "no folder 'annotations' beside the videos" in capsys.readouterr().err


def test_parts_merge_into_the_store_of_one_run(extraction):
    for number, seconds in enumerate((1, 3, 1, 2)):
        numbered(extraction.videos / f"{number}.mp4", seconds=seconds)
        if number != 2:
            write(extraction.videos / "annotations" / f"{number}.json", document(moving(25 * seconds)))
    for k in range(0, 75, 5):
        file = extraction.videos / "masks" / "1" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 64), 4, np.uint8)).save(file)
    params = {"fps": 5.0, "tracks": "annotations", "masks": "masks", "parts": 2}
    whole = {f.name: f.read_bytes() for f in extraction.store(**params).path.iterdir()}
    folders = [extraction.root / f"part-{n}" for n in (1, 2)]
    for number, folder in enumerate(folders, start=1):
        words = ("--videos", extraction.videos, "--part", f"{number}/2", "--frames", folder)
        assert extraction.command(*words, **params) == 0
    merged = extraction.root / "merged"
    words = [word for folder in folders for word in ("--merge", folder)]
    assert extraction.command(*words, "--frames", merged, **params) == 0
    assert {f.name: f.read_bytes() for f in merged.iterdir()} == whole
    store = FrameStore(merged)
    rows = [row for row in store.objects.to_pylist() if row["size"] is not None]
    assert len(rows) == 13  # after frame 60 the track has left the picture
    for row in rows:
        png = store.read(row["shard"], row["offset"], row["size"])
        assert (np.asarray(Image.open(io.BytesIO(png))) == 4).all()


def test_files_find_their_videos(tmp_path):
    for name in ("training/0000/1", "validation/0001/2", "x/a/0", "1", "c/0"):
        write(tmp_path / "ann" / f"{name}.json", "{}")
    tracks = find_tracks(tmp_path, "ann", None, ["video/0000/1", "video/0001/2", "a/0", "b/0"])
    found = {key: file.relative_to(tmp_path / "ann").as_posix() for key, file in tracks.files.items()}
    assert found == {
        "video/0000/1": "training/0000/1.json",
        "video/0001/2": "validation/0001/2.json",
        "a/0": "x/a/0.json",
    }
    assert tracks.strays == ("1.json", "c/0.json")
    write(tmp_path / "ann" / "y" / "a" / "0.json", "{}")
    with pytest.raises(StageError, match=r"two files tell of video 'a/0': x/a/0.json and y/a/0.json"):
        find_tracks(tmp_path, "ann", None, ["a/0"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fps": 0}, "fps: Input should be greater than 0"),
        ({"width": -1}, "width: Input should be greater than 0"),
        ({"trajectories": [[{"tid": 1}]]}, "trajectories.0.0.bbox: Field required"),
        ({"trajectories": [[{"tid": -1, "bbox": {}}]]}, "trajectories.0.0.tid: Input should be greater"),
    ],
)
def test_bad_values_are_named(tmp_path, change, why):
    write(tmp_path / "a.json", document(moving(2)) | change)
    with pytest.raises(ValueError, match=why):
        read_annotation(tmp_path / "a.json")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_join_against_a_search_of_all_annotated_frames(data):
    """Of each stored frame: the annotated frame whose time is nearest, at most half a step away."""
    fps = data.draw(st.sampled_from([0.5, 1.0, 4.0, 12.5, 30.0]))
    n = data.draw(st.integers(1, 12))
    box = st.tuples(st.integers(0, 3), *[st.integers(-20, 90)] * 4)
    trajectories = data.draw(st.lists(st.lists(box, max_size=4), min_size=n, max_size=n))
    # a quarter off the grid's middles, so that no stored frame is equally near to two
    pts_s = np.array(sorted(data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=9)))) / (4 * fps) + 0.01 / fps
    annotation = Annotation.model_validate(document(trajectories, fps))
    found = join(annotation, pts_s)
    expected, left_out = [], 0
    for at, t in enumerate(pts_s):
        near = [k for k in range(n) if abs(k / fps - t) <= 0.5 / fps]
        seen = set()
        for tid, x0, y0, x1, y1 in sorted(trajectories[near[0]], key=lambda e: e[0]) if near else []:
            clipped = (max(x0, 0) / 64, max(y0, 0) / 48, min(x1, 64) / 64, min(y1, 48) / 48)
            bad = clipped[0] >= clipped[2] or clipped[1] >= clipped[3] or tid in seen
            seen.add(tid)
            left_out += bad
            if not bad:
                expected.append((at, near[0], tid, *clipped))
    got = zip(found.at.tolist(), found.annotated.tolist(), found.track.tolist(), *found.box.T.tolist(), strict=True)
    assert list(got) == expected and found.n_outside == left_out
