"""Which frames are taken and at what time: against pictures that tell their own number."""

import math
import shutil

import pytest

from tests.extract_frames.clips import SHARED_VIDEOS, encode, ffmpeg, numbered


def numbers(frames):
    return [row["number"] for row in frames]


def first_of_each_cell(times, cells_per_s):
    """The rule in words: cut time into cells from the first frame on, take the first frame of each."""
    taken, last = [], -1
    for n, t in enumerate(times):
        cell = math.floor((t - times[0] + 0.0011) * cells_per_s)
        if cell > last:
            taken.append(n)
            last = cell
    return taken


@pytest.mark.parametrize(
    ("params", "cells_per_s"),
    [
        ({"mode": "fps", "fps": 2.0}, 2),
        ({"mode": "fps", "fps": 7.3}, 7.3),
        ({"mode": "fps", "fps": 25.0}, 25),
        ({"mode": "fps", "fps": 60.0}, 60),  # the source is slower: every frame, and none twice
        ({"mode": "every_s", "every_s": 0.7}, 1 / 0.7),
    ],
)
def test_the_first_frame_of_each_cell_is_taken_at_its_true_time(extraction, clip, params, cells_per_s):
    shutil.copy(clip, extraction.videos / "clip.mp4")
    _, frames = extraction.rows(**params)
    expected = first_of_each_cell([n / 25 for n in range(50)], cells_per_s)
    assert numbers(frames["clip.mp4"]) == expected
    assert [row["pts_s"] for row in frames["clip.mp4"]] == [n / 25 for n in expected]
    assert [row["frame"] for row in frames["clip.mp4"]] == expected


def test_keyframes_come_at_their_irregular_times(extraction):
    numbered(extraction.videos / "k.mp4", "-force_key_frames", "0.2,0.48,1.72", "-sc_threshold", "0")
    _, frames = extraction.rows(mode="keyframes", fps=None)
    assert numbers(frames["k.mp4"]) == [0, 5, 12, 22, 32, 42, 43]  # a GOP ends after ten frames by itself
    assert [row["pts_s"] for row in frames["k.mp4"]] == [n / 25 for n in (0, 5, 12, 22, 32, 42, 43)]


def test_a_variable_rate_keeps_its_times_and_repeats_nothing(extraction):
    kept = [n for n in range(50) if n % 7 != 3 and not 20 <= n < 33]
    numbered(
        extraction.videos / "v.mp4", "-vf", "select=not(eq(mod(n\\,7)\\,3)+between(n\\,20\\,32))", "-fps_mode", "vfr"
    )
    _, frames = extraction.rows(fps=100.0)
    assert numbers(frames["v.mp4"]) == kept
    assert [row["pts_s"] for row in frames["v.mp4"]] == pytest.approx([n / 25 for n in kept], abs=1e-9)
    _, frames = extraction.rows(fps=4.0)
    assert numbers(frames["v.mp4"]) == [kept[i] for i in first_of_each_cell([n / 25 for n in kept], 4)]


def test_times_rounded_to_milliseconds_lose_no_frame(extraction):
    """Matroska at 30000/1001: 33, 67, 100 ms; asked for the source's own rate, every frame is there."""
    encode(extraction.videos / "ms.mkv", "testsrc2=s=64x48:r=30000/1001:d=2")
    videos, frames = extraction.rows(fps=30000 / 1001)
    assert len(frames["ms.mkv"]) == 60
    assert videos["ms.mkv"]["fps"] == pytest.approx(30000 / 1001)
    assert [row["frame"] for row in frames["ms.mkv"]] == list(range(60))
    for n, row in enumerate(frames["ms.mkv"]):
        assert row["pts_s"] == pytest.approx(n * 1001 / 30000, abs=0.001)


def test_times_start_at_the_first_frame(extraction, clip):
    ffmpeg("-itsoffset", 3.4, "-i", clip, "-c", "copy", extraction.videos / "late.mkv")
    _, frames = extraction.rows(fps=5.0)
    assert numbers(frames["late.mkv"]) == list(range(0, 50, 5))
    assert [row["pts_s"] for row in frames["late.mkv"]] == pytest.approx([n / 25 for n in range(0, 50, 5)], abs=0.001)


def test_times_past_a_thousand_seconds_keep_all_their_digits(extraction):
    """ffmpeg prints six digits; a frame at 4000.04 s must not become one at 4000."""
    numbered(
        extraction.videos / "long.mp4", "-vf", "setpts=PTS+gte(N\\,10)*4000/TB", "-fps_mode", "passthrough", seconds=1
    )
    _, frames = extraction.rows(fps=25.0)
    found = numbers(frames["long.mp4"])
    assert len(found) >= 24  # one version's encoder swallows the last
    expected = [n / 25 + (4000 if n >= 10 else 0) for n in found]
    assert [row["pts_s"] for row in frames["long.mp4"]] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["kinetics_arm_wrestling.mp4", pytest.param("sam2_bedroom.mp4", marks=pytest.mark.slow)]
)
def test_real_video_agrees_with_an_independent_decoder(extraction, name):
    """OpenCV decodes the same file by its own libraries: same times, same pictures."""
    import cv2
    import numpy as np

    if not SHARED_VIDEOS.is_dir():
        pytest.skip("the real clips are not beside the project")
    shutil.copy(SHARED_VIDEOS / name, extraction.videos)
    store = extraction.store(fps=3.0, short_side_px=4096)
    capture = cv2.VideoCapture(str(SHARED_VIDEOS / name))
    pictures, times = [], []
    while (read := capture.read())[0]:
        pictures.append(read[1])
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    expected = first_of_each_cell(times, 3)
    rows = store.frames.to_pylist()
    assert [row["pts_s"] for row in rows] == pytest.approx([times[n] - times[0] for n in expected], abs=1e-3)
    for n, row in zip(expected, rows, strict=True):
        jpeg = np.frombuffer(store.read(row["shard"], row["offset"], row["size"]), np.uint8)
        ours = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert np.abs(ours.astype(int) - pictures[n].astype(int)).mean() < 4
