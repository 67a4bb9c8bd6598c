"""All sorts of videos through the stage."""

import multiprocessing
import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest

from components.common.errors import ExitCode
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import find_sources
from components.extract_frames.finished import Finished
from components.extract_frames.video import Decoder
from tests.extract_frames.clips import SHARED_VIDEOS, encode, ffmpeg, number_of, numbered


def reasons(videos):
    return {name: (video["status"], video["reason"]) for name, video in videos.items()}


def turned(data, matrix):
    """The same MP4 with another display matrix in its track header (ISO 14496-12, 8.3.2)."""
    at = data.index(b"tkhd") + 4 + 40
    return data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :]


NOBODY = 65534
ONE, W = 1 << 16, 1 << 30
CLOCKWISE = {
    90: (0, ONE, 0, -ONE, 0, 0, 0, 0, W),
    180: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, W),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 0, W),
}


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_and_recorded(extraction, degrees):
    """A bright stripe at the top ends up on the right, at the bottom, on the left."""
    import cv2
    import numpy as np

    flat = encode(extraction.root / "flat.mp4", "color=black:s=64x32:r=5:d=1,drawbox=w=64:h=8:color=white:t=fill")
    (extraction.videos / "v.mp4").write_bytes(turned(flat.read_bytes(), CLOCKWISE[degrees]))
    store = extraction.store(short_side_px=32)
    (video,), row = store.videos.to_pylist(), store.frames.to_pylist()[0]
    assert (video["rotation"], video["width"], video["height"]) == (degrees, 64, 32)
    assert (row["width"], row["height"]) == ((64, 32) if degrees == 180 else (32, 64))
    jpeg = np.frombuffer(store.read(row["shard"], row["offset"], row["size"]), np.uint8)
    upright = np.rot90(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), degrees // 90)
    assert upright[:6].mean() > 240
    assert upright[12:].mean() < 15


@pytest.mark.parametrize(
    ("size", "short_side_px", "upscale", "stored"),
    [
        ("161x121", 121, False, (161, 121)),
        ("161x121", 256, False, (161, 121)),  # never enlarged by itself
        ("161x121", 60, False, (80, 60)),
        ("48x96", 96, True, (96, 192)),
        ("64x200", 32, False, (32, 100)),
    ],
)
def test_sizes_odd_ones_too(extraction, size, short_side_px, upscale, stored):
    encode(extraction.videos / "v.mkv", f"testsrc2=s={size}:r=5:d=0.4,format=yuv444p", "-pix_fmt", "yuv444p")
    store = extraction.store(short_side_px=short_side_px, upscale=upscale)
    assert {(row["width"], row["height"]) for row in store.frames.to_pylist()} == {stored}


def test_sound_and_covers_are_passed_over_and_one_frame_is_enough(extraction, clip):
    sine = ["-f", "lavfi", "-i", "sine=d=2"]
    ffmpeg("-i", clip, *sine, "-c:v", "copy", "-c:a", "aac", extraction.videos / "sound.mp4")
    ffmpeg("-i", clip, "-frames:v", 1, "-c", "copy", extraction.videos / "one.mp4")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=300x300", "-frames:v", 1, extraction.root / "cover.png")
    cover = ["-map", 1, "-map", 0, "-c", "copy", "-disposition:v:0", "attached_pic"]
    ffmpeg("-i", clip, "-i", extraction.root / "cover.png", *cover, extraction.videos / "cover.mp4")
    videos, frames = extraction.rows(fps=1.0)
    assert {name: [row["number"] for row in rows] for name, rows in frames.items()} == {
        "cover.mp4": [0, 25],
        "one.mp4": [0],
        "sound.mp4": [0, 25],
    }
    assert {video["width"] for video in videos.values()} == {64}
    assert set(reasons(videos).values()) == {("ok", "")}


def test_what_is_no_video_is_recorded_with_its_reason(extraction, clip):
    shutil.copy(clip, extraction.videos / "good.mp4")
    (extraction.videos / "text.mp4").write_text("this is not a video\n" * 50)
    (extraction.videos / "zero.mp4").write_bytes(b"")
    (extraction.videos / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:2,\nfile:{clip}\n")
    (extraction.videos / "gone.mp4").symlink_to(extraction.root / "nowhere")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", extraction.videos / "sound_only.mp4")
    videos, frames = extraction.rows(max_bad_share=0.9)
    found = reasons(videos)
    assert found.pop("good.mp4") == ("ok", "")
    assert {status for status, _ in found.values()} == {"bad"}
    assert found["zero.mp4"][1] == "empty file"
    assert found["gone.mp4"][1] == "no such file or directory"
    assert found["text.mp4"][1]
    assert found["list.mp4"][1]  # a playlist could make ffmpeg open anything
    assert found["sound_only.mp4"][1] == "no video stream"
    assert not any(str(extraction.root) in reason for _, reason in found.values())
    assert {name: len(rows) for name, rows in frames.items() if rows} == {"good.mp4": 50}


def test_an_unreadable_file_is_recorded(clip):
    """Root may read everything, so a child that is nobody looks at it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "finished").mkdir()
        shutil.copy(clip, root / "locked.mp4")
        (root / "locked.mp4").chmod(0)
        root.chmod(0o755)
        (root / "finished").chmod(0o777)
        (source,) = find_sources(root)
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        with multiprocessing.get_context("fork").Pool(1, os.seteuid, (user,)) as pool:
            row = pool.apply(make_part, (root, source))
    assert (row.status, row.reason) == ("bad", "permission denied")


def make_part(root, source):
    return Finished(root).make(source, Decoder(ExtractParams(fps=1.0)))


def test_a_truncated_video_keeps_the_frames_before_the_damage(extraction, clip):
    """Index in front: the rest is usable. Index at the end: gone with it."""
    whole = clip.read_bytes()
    (extraction.videos / "front.mp4").write_bytes(whole[: int(len(whole) * 0.7)])
    ffmpeg("-i", clip, "-c", "copy", "-movflags", "-faststart", extraction.root / "end.mp4")
    end = (extraction.root / "end.mp4").read_bytes()
    (extraction.videos / "end.mp4").write_bytes(end[: int(len(end) * 0.7)])
    (extraction.videos / "stub.mp4").write_bytes(whole[: whole.index(b"mdat") + 10])
    videos, frames = extraction.rows(max_bad_share=0.9)
    assert videos["front.mp4"]["status"] == "ok"
    assert videos["front.mp4"]["reason"].startswith("partial: ")
    kept = [row["number"] for row in frames["front.mp4"]]
    assert 5 < len(kept) < 45
    assert kept[:-1] == list(range(len(kept) - 1))  # in coding order a P frame may come before the lost B frame
    assert [row["pts_s"] for row in frames["front.mp4"]] == [n / 25 for n in kept]
    assert reasons(videos)["end.mp4"] == ("bad", "moov atom not found")
    assert videos["stub.mp4"]["status"] == "bad"


def test_damage_in_the_middle_is_noted(extraction, clip):
    data = bytearray(clip.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 60] = bytes(range(60))
    (extraction.videos / "v.mp4").write_bytes(data)
    videos, frames = extraction.rows()
    assert videos["v.mp4"]["status"] == "ok"
    assert videos["v.mp4"]["reason"].startswith("partial: ")
    assert [row["number"] for row in frames["v.mp4"]][:10] == list(range(10))
    times = [row["pts_s"] for row in frames["v.mp4"]]
    assert times == sorted(set(times))


def test_too_many_bad_videos_stop_the_stage_and_list_them(extraction, clip, capsys):
    shutil.copy(clip, extraction.videos / "good.mp4")
    for name in ("a.mp4", "b.mp4"):
        (extraction.videos / name).write_bytes(b"")
    assert extraction(max_bad_share=0.5) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "2 of 3 videos are unreadable, 1 may be: a.mp4 (empty file), b.mp4 (empty file)" in said
    assert not extraction.place.exists()
    assert len(extraction.store(max_bad_share=0.7).videos) == 3
    (extraction.videos / "good.mp4").unlink()
    assert extraction(max_bad_share=1.0) == ExitCode.BAD_INPUT
    assert "no frame in any of 2 videos: a.mp4 (empty file), b.mp4 (empty file)" in capsys.readouterr().err


def test_an_empty_folder_is_said_so(extraction, capsys):
    (extraction.videos / "readme.txt").write_text("no videos yet")
    assert extraction() == ExitCode.BAD_INPUT
    assert "no video file in this folder" in capsys.readouterr().err


def test_videos_of_one_name_do_not_collide(extraction):
    numbered(extraction.videos / "a" / "v.mp4", seconds=1)
    numbered(extraction.videos / "b" / "v.mp4", seconds=2)
    numbered(extraction.videos / "b" / "v.mkv", seconds=1)
    videos, frames = extraction.rows(fps=5.0)
    assert {v["key"]: len(frames[name]) for name, v in videos.items()} == {"a/v": 5, "b/v.mkv": 5, "b/v.mp4": 10}


def test_a_folder_of_images_is_a_video(extraction, clip):
    for name in ("walk", "100% [b] *"):
        (extraction.videos / name).mkdir()
        ffmpeg("-i", clip, "-frames:v", 12, "-start_number", 7, extraction.root / "f%05d.png")
        for image in extraction.root.glob("f*.png"):
            image.rename(extraction.videos / name / image.name)
    videos, frames = extraction.rows(fps=5.0, source_fps=10.0)
    assert {v["key"] for v in videos.values()} == {"walk", "100% [b] *"}
    for rows in frames.values():
        assert [(row["number"], row["frame"], row["pts_s"]) for row in rows] == [
            (n, n, pytest.approx(n / 10)) for n in range(0, 12, 2)
        ]


def test_hard_cuts_are_marked_on_the_first_frame_after_them(extraction):
    shots = "testsrc2=s=64x48:r=25:d=1[a];smptebars=s=64x48:r=25:d=1.2[b];mandelbrot=s=64x48:r=25,trim=duration=1[c]"
    encode(extraction.videos / "v.mp4", f"{shots};[a][b][c]concat=n=3")
    numbered(extraction.videos / "w.mp4")
    for fps, expected in ((25.0, [1.0, 2.2]), (3.0, [1.0, 7 / 3])):
        _, frames = extraction.rows(fps=fps, cuts={"threshold": 8.0})
        cuts = [row["pts_s"] for row in frames["v.mp4"] if row["cut"]]
        assert cuts == pytest.approx(expected, abs=0.041)
        assert all(t >= e - 1e-9 for t, e in zip(cuts, (1.0, 2.2), strict=True))
        assert not any(row["cut"] for row in frames["w.mp4"])
    _, frames = extraction.rows(fps=25.0)
    assert not any(row["cut"] for row in frames["v.mp4"])


@pytest.mark.slow
def test_cuts_of_real_videos(extraction):
    if not SHARED_VIDEOS.is_dir():
        pytest.skip("the real clips are not beside the project")
    extraction.videos.rmdir()
    extraction.videos.symlink_to(SHARED_VIDEOS)
    _, frames = extraction.rows(fps=1000.0, short_side_px=64, cuts={"threshold": 8.0})
    cuts = {name: [round(row["pts_s"], 2) for row in rows if row["cut"]] for name, rows in frames.items()}
    assert cuts["bikes_multishot.mp4"] == [1.2, 3.04, 5.48, 7.48, 9.68]  # seen by eye, to the frame
    assert cuts["nasa_13013.mp4"] == [8.08]  # its other transition is a dissolve
    for name in ("drive_solidWhiteRight.mp4", "sam2_bedroom.mp4", "sam2_juggle.mp4"):
        assert cuts[name] == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"mode": "every_s"}, "mode 'every_s' needs a value for 'every_s'"),
        ({"mode": "keyframes", "cuts": {}}, "set 'cuts' to null"),
        ({"fsp": 3}, "unknown key 'fsp', did you mean 'fps'?"),
        ({"quality": 1}, "'quality' = 1"),
        ({"fps": -1.5}, "'fps' = -1.5"),
    ],
)
def test_wrong_parameters_are_explained(extraction, capsys, params, said):
    assert extraction(**params) == ExitCode.BAD_INPUT
    assert said in capsys.readouterr().err


def test_brightness_tells_the_number(clip, tmp_path):
    """The ruler of these tests, against images that ffmpeg writes without any of our options."""
    ffmpeg("-i", clip, "-q:v", 2, tmp_path / "%03d.jpg")
    assert [number_of(f.read_bytes()) for f in sorted(tmp_path.glob("*.jpg"))] == list(range(50))
