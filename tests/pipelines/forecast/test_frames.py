"""What extraction is said to give, against what ffmpeg and the frame store's writer really give."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.common.ffmpeg import ffmpeg_exe
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.stage import main
from components.extract_frames import __main__ as stage
from components.extract_frames.command import TOLERANCE_S
from components.extract_frames.config import ExtractParams
from pipelines.forecast.corpus import Videos
from pipelines.forecast.frames import (
    CELL_TOLERANCE_S,
    SPLIT,
    extract,
    frame_times,
    jpeg_bytes,
    memory_bytes,
    pieces,
    stored_size,
)
from pipelines.forecast.rates import Rates, read_rates


def videos(n: int = 2, video_s: float = 3.0, fps: float = 25.0, size: tuple[int, int] = (64, 48)) -> Videos:
    return Videos(n, video_s, fps, *size, 1e6 * n, 0.0, 2.0, drawn=False, known="test")


def film(folder: Path, told: Videos, keyframe: int = 250) -> None:
    folder.mkdir()
    picture = f"testsrc2=s={told.width_px}x{told.height_px}:r={told.fps}:d={told.video_s}"
    for number in range(told.n):
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-g", str(keyframe), "-sc_threshold", "0"]
        command = [ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", picture, *coded, str(folder / f"{number}.mp4")]
        subprocess.run(command, check=True)


def really(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Videos, params: dict[str, Any], **how: int
) -> FrameStore:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    film(tmp_path / "videos", told, **how)
    given = ["--videos", "videos", "--frames", "frames", "--param", f"extract_frames.c={json.dumps(params)}"]
    assert main(stage.STAGE, stage.run, ["--corpus", "c", *given]) == 0
    return FrameStore(tmp_path / "frames")


@pytest.mark.parametrize(
    ("fps", "params"),
    [
        (25.0, {"mode": "fps", "fps": 4, "short_side_px": 32}),
        (30.0, {"mode": "fps", "fps": 4, "short_side_px": 480}),
        (12.0, {"mode": "fps", "fps": 60, "short_side_px": 48}),
        (24.0, {"mode": "every_s", "every_s": 0.7, "short_side_px": 32}),
    ],
)
def test_times_and_sizes_are_those_of_a_real_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, params: dict[str, Any]
) -> None:
    told = videos(fps=fps)
    store = really(tmp_path, monkeypatch, told, params)
    frames, _ = extract(told, params, read_rates())
    assert frames.n == store.n_frames
    np.testing.assert_allclose(frames.times_s, store.frames["pts_s"].to_numpy()[: len(frames.times_s)], atol=1e-6)
    assert (frames.width_px, frames.height_px) == (store.frames["width"][0].as_py(), store.frames["height"][0].as_py())


def test_keyframes_come_at_their_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = videos(n=1, video_s=5.0)
    store = really(tmp_path, monkeypatch, told, {"mode": "keyframes", "short_side_px": 32}, keyframe=50)
    np.testing.assert_allclose(frame_times(told, {"mode": "keyframes"}), store.frames["pts_s"].to_numpy(), atol=1e-6)


def test_a_long_video_is_taken_in_proportion() -> None:
    hours = extract(videos(n=1, video_s=36_000, fps=60), {"fps": 4}, read_rates())[0].n
    assert hours == pytest.approx(36_000 * 4, rel=1e-3)


def known_jpegs(mean: float, area: float) -> Rates:
    """Rates under which a frame has exactly the mean size of the test's."""
    return read_rates([{"extract": {"jpeg_bytes_per_px": mean / area, "jpeg_bytes_side_exponent": 0}}])


@pytest.mark.parametrize(("n_videos", "per_video"), [(20, 40), (100, 40)])
def test_bytes_of_a_store(tmp_path: Path, n_videos: int, per_video: int) -> None:
    """Tar blocks, shards and tables, at two sizes: within two percent of a store as the writer makes it."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpegs = [cv2.imencode(".jpg", ground, [cv2.IMWRITE_JPEG_QUALITY, int(q)])[1].tobytes() for q in range(50, 90)]
    with FrameStoreWriter(tmp_path / "store", shard_bytes=1_000_000) as store:
        for video in range(n_videos):
            row = VideoRow(key=f"folder/video-{video:06d}", path=f"folder/video-{video:06d}.mp4", sha256="ab" * 32)
            store.add(row, [Frame(jpegs[(video + i) % 40], i / 4, 6 * i) for i in range(per_video)])
    rates = known_jpegs(float(np.mean([len(j) for j in jpegs])), 64 * 64)
    told = videos(n_videos, per_video / 4, 24.0, (64, 64))
    frames, work = extract(told, {"fps": 4, "short_side_px": 64, "shard_mb": 1}, rates)
    real = sum(file.stat().st_size for file in (tmp_path / "store").iterdir())
    assert frames.n == n_videos * per_video
    assert frames.store.bytes == pytest.approx(real, rel=0.02)
    assert frames.shards == pytest.approx(len(list((tmp_path / "store").glob("*.tar"))), abs=1)
    assert work.scratch_bytes == pytest.approx(frames.n * np.mean([len(j) for j in jpegs]))


def test_larger_pictures_cost_fewer_bytes_a_pixel() -> None:
    rates = read_rates()
    per_px = [jpeg_bytes(s * 16 / 9, s, 2, rates) / (s * s * 16 / 9) for s in (128, 256, 512)]
    assert per_px == sorted(per_px, reverse=True)
    assert jpeg_bytes(455, 256, 5, rates) < 0.7 * jpeg_bytes(455, 256, 2, rates)


def test_no_frame_is_enlarged_unless_asked() -> None:
    small = videos(size=(64, 48))
    assert stored_size(small, {"short_side_px": 96}) == (64, 48)
    assert stored_size(small, {"short_side_px": 96, "upscale": True}) == (128, 96)


def test_the_grid_of_times_has_the_stages_tolerance() -> None:
    assert CELL_TOLERANCE_S == TOLERANCE_S


def test_parts_cut_the_queue_but_not_the_list() -> None:
    rates = read_rates()
    whole, cut = memory_bytes(1e6, 1, rates), memory_bytes(1e6, 10, rates)
    assert whole - cut == pytest.approx(0.9e6 * rates.extract.memory_bytes_per_queued)


def test_a_long_video_keeps_many_cores_busy() -> None:
    film = Videos(1, 6600.0, 30.0, 3840, 2160, 8e9, 0.0, 2.0, drawn=False, known="test")
    assert pieces(film, {"fps": 2.0}) == 110
    assert extract(film, {"fps": 2.0}, read_rates())[1].width == 110
    assert pieces(film, {"piece_s": 600.0}) == 11
    assert pieces(film, {"piece_s": None}) == pieces(film, {"mode": "keyframes"}) == pieces(videos(), {}) == 1
    assert {name: ExtractParams.model_fields[name].default for name in SPLIT} == SPLIT
