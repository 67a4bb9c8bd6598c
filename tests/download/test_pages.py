"""Pages of videos through the real yt-dlp: an HLS page on loopback with three streams stands for YouTube's."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import StageError
from components.common.ffmpeg import ffmpeg_exe, probe
from components.download.cards import Disk, read_card
from components.download.config import Pages
from components.download.sources.pages import choose, is_page
from tests.download import miniatures
from tests.download.conftest import Download
from tests.download.file_server import FileServer

STREAMS = (("low", "64x48", 15), ("high", "96x72", 15), ("fast", "96x72", 30))


def stream(height: int, fps: float | None, ext: str = "mp4", vbr: float = 1.0, **more: Any) -> dict[str, Any]:
    width = height * 16 // 9
    named = f"{height}-{fps}-{ext}-{vbr}"
    return {"format_id": named, "height": height, "width": width, "fps": fps, "ext": ext, "vbr": vbr, **more}


def test_the_rule_takes_pixels_then_rate_then_container_then_bits() -> None:
    found = [stream(720, 60), stream(1080, 30), stream(1080, 60, "webm", 9.0), stream(1080, 60, vbr=2.0)]
    sound = {"format_id": "a", "vcodec": "none", "height": None, "ext": "m4a"}
    assert choose([sound, *found, stream(1080, 60)], Pages())["format_id"] == "1080-60-mp4-2.0"
    assert choose(found, Pages(containers=["webm", "mp4"]))["ext"] == "webm"
    assert choose(found, Pages(max_height_px=800))["format_id"] == "720-60-mp4-1.0"
    assert choose(reversed(found), Pages()) == choose(found, Pages())
    with pytest.raises(StageError, match=r"no stream is as low as pages\.max_height_px = 100, the lowest has 720"):
        choose(found, Pages(max_height_px=100))
    with pytest.raises(StageError, match="no stream with pictures"):
        choose([sound], Pages())


def test_pages_are_told_by_their_host() -> None:
    assert is_page("https://www.youtube.com/watch?v=x", Pages())
    assert is_page("https://youtu.be/x", Pages())
    assert not is_page("https://notyoutube.com/x.mp4", Pages())
    assert not is_page("s3://youtube.com/x", Pages())
    assert is_page("http://127.0.0.1:81/x", Pages(hosts=["127.0.0.1:81"]))


@pytest.fixture
def page(tmp_path: Path) -> Any:
    """Two films as HLS, `<film>.m3u8`, each with the streams of STREAMS."""
    folder = tmp_path / "served"
    for seed, film in enumerate(("venice", "zurich")):
        rows = ["#EXTM3U"]
        for name, size, rate in STREAMS:
            source = miniatures.video(tmp_path / f"{film}-{name}.mp4", 2, rate, seed=seed)
            place = folder / film / f"{name}.m3u8"
            place.parent.mkdir(parents=True, exist_ok=True)
            scale = ["-vf", f"scale={size.replace('x', ':')}", "-c:v", "libx264", "-preset", "ultrafast"]
            command = [ffmpeg_exe(), "-v", "error", "-y", "-i", str(source), *scale, "-f", "hls", "-hls_time", "1"]
            subprocess.run([*command, "-hls_playlist_type", "vod", str(place)], check=True)
            codec = f'CODECS="avc1.42c00b",RESOLUTION={size},FRAME-RATE={rate}'
            rows += [f"#EXT-X-STREAM-INF:BANDWIDTH=100000,{codec}", f"{film}/{name}.m3u8"]
        miniatures.lines(folder / f"{film}.m3u8", *rows)
    server = FileServer(folder)
    yield server
    server.close()


def test_walking_tours_come_from_the_addresses_of_their_list(page: FileServer, download: Download, tmp_path: Path):
    """As WTour.txt: `address, city`; one is dead, one plays, and the best stream of each is taken."""
    rows = [f"{page.url}/venice.m3u8, Venice", f"{page.url}/gone.m3u8, Bangkok", f"{page.url}/zurich.m3u8, Zurich"]
    listed = miniatures.lines(tmp_path / "WTour.txt", *rows)
    section = {"source": "list", "path": str(listed), "pages": {"hosts": [page.host]}, "transfer": {"retries": 0}}
    assert download(**section, card="walking_tours", max_dead_share=0.5) == 0
    streams = {row["path"]: row for row in download.said("MANIFEST.json")["streams"]}
    assert set(streams) == {"Venice.mp4", "Zurich.mp4"}
    for row in streams.values():
        assert (row["width"], row["height"], row["fps"]) == (96, 72, 30)
    (dead,) = download.said("MANIFEST.json")["dead"]
    assert dead["address"].endswith("gone.m3u8") and "404" in dead["reason"]
    assert download(**section, card="walking_tours", max_dead_share=0.1) == 2


def test_the_card_takes_venice_alone_and_lower_if_asked(
    page: FileServer, download: Download, tmp_path: Path, monkeypatch
):
    small = read_card("walking_tours_venice").model_copy(update={"disk": Disk(before_gb=0, after_gb=0)})
    monkeypatch.setattr("components.download.stage.read_card", lambda name: small)
    rows = [f"{page.url}/venice.m3u8, Venice", f"{page.url}/zurich.m3u8, Zurich"]
    miniatures.lines(tmp_path / "served/WTour.txt", *rows)
    pages = {"hosts": [page.host], "max_height_px": 50}
    assert download(card="walking_tours_venice", mirror=page.url, pages=pages) == 0
    assert sorted(file.name for file in download.data.glob("*.mp4")) == ["Venice.mp4"]
    assert probe(download.data / "Venice.mp4").height == 48
    assert not any("zurich" in row for row in page.asked)
    assert download(card="walking_tours_venice", mirror=page.url, pages=pages, only=["Atlantis"]) == 2


def test_without_yt_dlp_a_folder_is_asked_for(tmp_path: Path) -> None:
    miniatures.lines(tmp_path / "list.txt", "https://youtu.be/abc")
    section = {"source": "list", "path": "list.txt", "max_dead_share": 0}
    command = [sys.executable, "-m", "components.download", "--dataset", "d", "--data", "d"]
    code = (
        "import runpy, sys; sys.modules['yt_dlp'] = None; runpy.run_module('components.download', run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "LONGTAKE_TRACKING": "off"}
    given = [*command[3:], "--param", f"download.d={json.dumps(section)}"]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the page of a video, and yt-dlp is not installed" in done.stderr


BLUR = """#!{python}
import json, subprocess, sys
assert sys.argv[1:3] == ["--thresh", "0.3"] and (sys.argv[3], sys.argv[5]) == ("--ffmpeg-config", "--output"), sys.argv
assert json.loads(sys.argv[4])["macro_block_size"] == 2 and all(name.endswith(".mp4") for name in sys.argv[6:])
command = ["{ffmpeg}", "-v", "error", "-nostdin", "-y", "-i", sys.argv[7], "-vf", "boxblur=6", sys.argv[6]]
sys.exit(subprocess.run(command).returncode)
"""


def test_faces_are_blurred_by_a_program_on_the_path(download: Download, tmp_path: Path, monkeypatch: Any, capsys: Any):
    """A stand-in with deface's command line, which blurs all of the picture."""
    import numpy as np

    source = miniatures.write("walking_tours_venice", tmp_path / "mine", tmp_path / "work")
    before = (source / "venice.mp4").read_bytes()
    section = {"card": "walking_tours_venice", "path": str(source), "blur_faces": {"args": ["--thresh", "0.3"]}}
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert download(**section) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("download: no program 'deface' on the PATH") and "\n" not in line
    exe = tmp_path / "bin/deface"
    exe.parent.mkdir()
    exe.write_text(BLUR.format(python=sys.executable, ffmpeg=ffmpeg_exe()))
    exe.chmod(exe.stat().st_mode | stat.S_IEXEC)
    assert download(**section) == 0
    assert (source / "venice.mp4").read_bytes() == before
    assert probe(download.data / "venice.mp4").duration_s == pytest.approx(10, abs=0.2)
    assert np.ptp(first_frame(download.data / "venice.mp4")) < 0.7 * np.ptp(first_frame(source / "venice.mp4"))
    exe.write_text("#!/bin/sh\necho no camera >&2\nexit 3\n")
    assert download(**{**section, "version": 2}) == 2
    assert "'deface' ended with code 3 and made no whole file: no camera: venice.mp4" in capsys.readouterr().err
    exe.write_text("#!/bin/sh\nfor name; do :; done\necho Could not open file $name. Skipping file...\n")
    assert download(**{**section, "version": 3}) == 2
    assert "code 0 and made no whole file: Could not open file venice.mp4. Skipping" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("deface") is None, reason="deface is not installed (pip install deface)")
def test_deface_itself(download: Download, tmp_path: Path, capsys: Any) -> None:
    """Sizes that 16 does not divide, kinds of files that deface passes over or cannot write, and no video at all."""
    source = miniatures.video(tmp_path / "mine/a.mp4", 1)
    for name, options in (("b.ts", ["-s", "66x50"]), ("c.webm", ["-c:v", "libvpx", "-s", "66x50"])):
        command = [ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(source), *options, str(source.with_name(name))]
        subprocess.run(command, check=True)
    section = {"source": "local", "path": str(source.parent), "blur_faces": {}}
    assert download(**section) == 0
    found = {file.name: probe(file) for file in download.data.glob("*.mp4")}
    assert {name: (p.width, p.height) for name, p in found.items()} == {
        "a.mp4": (64, 48), "b.mp4": (66, 50), "c.mp4": (66, 50),
    }  # fmt: skip
    assert all(p.duration_s == pytest.approx(1, abs=0.1) for p in found.values())
    source.write_text("no video")
    assert download(**section, version=2) == 2
    assert "code 0 and made no whole file: Could not open file a.mp4" in capsys.readouterr().err


def first_frame(video: Path) -> Any:
    import numpy as np

    command = [
        ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(video),
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-",
    ]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)[: 64 * 48]
