"""Where ffmpeg is and what it says of a file."""

import subprocess

import pytest

from components.common import ffmpeg
from components.common.errors import StageError
from components.common.ffmpeg import ffmpeg_exe, parse_report, probe


@pytest.fixture
def fresh():
    ffmpeg_exe.cache_clear()
    yield
    ffmpeg_exe.cache_clear()


@pytest.mark.parametrize(
    ("rate", "fps"), [("30000/1001", 30000 / 1001), ("25", 25.0), ("24000/1001", 24000 / 1001), ("1", 1.0)]
)
def test_the_header_of_a_real_file(tmp_path, rate, fps):
    file = tmp_path / "v.mp4"
    picture = f"color=red:s=64x36:r={rate}:d=3"
    command = [ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", "mpeg4", str(file)]
    subprocess.run(command, check=True)
    found = probe(file)
    assert (found.codec, found.width, found.height, found.rotation) == ("mpeg4", 64, 36, 0)
    assert found.fps == pytest.approx(fps, rel=1e-9)
    assert found.duration_s == pytest.approx(3, abs=0.05)


def test_what_is_no_video_is_one_clear_line(tmp_path):
    with pytest.raises(StageError, match="no such video"):
        probe(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    with pytest.raises(StageError, match="not a readable video") as error:
        probe(tmp_path / "text.mp4")
    assert "\n" not in str(error.value)


def test_unknown_rate_and_duration_are_none():
    report = (
        "Input #0, h264, from 'x':\n  Duration: N/A, bitrate: N/A\n  Stream #0:0: Video: h264 (High), yuv420p, 64x48\n"
    )
    found = parse_report(report)
    assert found is not None
    assert (found.fps, found.duration_s) == (None, None)


def test_the_system_ffmpeg_comes_first(tmp_path, monkeypatch, fresh):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ffmpeg_exe() == str(tmp_path / "ffmpeg")


def test_without_one_the_packaged_binary_runs(monkeypatch, fresh):
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda name: None)
    said = subprocess.run([ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ffmpeg version")
