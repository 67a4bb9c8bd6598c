"""Small frame tables and stores for the tests of the index."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.index.config import IndexParams
from components.index.table import FrameTable, read_table

Segments = Sequence[Sequence[float]]  # the times of a video's frames, one list a cut-free stretch


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")


def params(draws: dict, **other: object) -> IndexParams:
    return IndexParams.model_validate({"draws": draws, **other})


def make_table(videos: Sequence[Segments], names: Sequence[str] | None = None) -> FrameTable:
    """A table without pictures."""
    rows = [
        (number, pts_s, place == 0 and part > 0)
        for number, segments in enumerate(videos)
        for part, times in enumerate(segments)
        for place, pts_s in enumerate(times)
    ]
    video, pts_s, cut = (np.array(column) for column in zip(*rows, strict=True))
    breaks = (np.diff(video, prepend=-1) != 0) | cut
    n = len(rows)
    sizes = {name: np.full(n, 100, np.int32) for name in ("shard", "offset", "size", "height", "width", "frame")}
    keys = [f"v{number}" for number in range(len(videos))]
    return FrameTable(
        columns={**sizes, "video": video.astype(np.int32), "pts_s": pts_s.astype(np.float64), "cut": cut},
        segment=(np.cumsum(breaks) - 1).astype(np.int32),
        segment_start=np.flatnonzero(breaks),
        keys=keys,
        identity=list(names or keys),
        duration_s=np.array([max(max(times) for times in segments) for segments in videos]),
        n_bad=0,
    )


def picture(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A scene: smooth noise of several octaves, uint8 RGB (H, W, 3)."""
    rng = np.random.default_rng(seed)
    height, width = size
    scene = np.zeros((height, width, 3))
    for octave in (3, 6, 12, 24):
        coarse = rng.normal(size=(octave, octave, 3))
        scene += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / octave**0.5
    return np.clip(scene + 128, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def shifted(image: np.ndarray, steps: int) -> np.ndarray:
    """The scene as a camera that pans sees it `steps` later."""
    return np.roll(image, 3 * steps, axis=1)


def make_store(folder: Path, scenes: dict[str, np.ndarray], fps: float = 6, n: int = 12) -> Path:
    """A store of one panning clip a scene."""
    with FrameStoreWriter(folder) as store:
        for key, scene in scenes.items():
            frames = [Frame(jpeg(shifted(scene, i)), i / fps, i) for i in range(n)]
            store.add(VideoRow(key, f"{key}.mp4", sha256=f"hash of {key}", fps=fps, duration_s=n / fps), frames)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(make_store(tmp_path / "frames", {f"clip{i}": picture(i) for i in range(3)}))


@pytest.fixture
def table(store: FrameStore) -> FrameTable:
    return read_table(store)
