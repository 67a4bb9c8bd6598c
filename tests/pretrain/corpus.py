"""A corpus of a few drawn videos, in the frame store's and the index's own layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from components.common.clip_index import write_index
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, TrackBox, VideoRow
from components.index.objects import read_objects

FPS = 4.0
RANGE_S = (0.25, 0.75)  # of the draw `range`


def write_corpus(folder: Path, videos: int = 4, frames: int = 20, side: int = 72) -> tuple[Path, Path]:
    """Write `folder/frames` and `folder/index` and return both.

    Draws: `frame`, `pair`, `clip` (4 frames), `range` (a second frame within RANGE_S), and `span`: twelve frames from
    every start, so that an epoch of a few videos has many. `object_frame` and `object_pair` are of frames that show the
    video's disc.
    """
    store, index = folder / "frames", folder / "index"
    with FrameStoreWriter(store, objects=True) as writer:
        for video in range(videos):
            rng = np.random.default_rng(video)
            writer.add(VideoRow(key=f"v{video}", path=f"v{video}.mp4", fps=FPS), _film(rng, frames, side))
    table = FrameStore(store).frames
    columns = {
        name: table[name].to_numpy() for name in ("video", "pts_s", "shard", "offset", "size", "height", "width")
    }
    columns |= {"segment": columns["video"], "split": np.zeros(videos * frames, np.int8)}
    starts = np.arange(videos * frames).reshape(videos, frames)
    draws = {name: _draw(starts, k) for name, k in (("frame", 1), ("pair", 2), ("clip", 4))}
    draws |= {"range": draws["pair"], "span": _draw(starts, min(frames, 12))[:, [0, -1]]}
    objects = read_objects(FrameStore(store), {name: table[name].to_numpy() for name in ("video", "frame")})
    assert objects is not None
    for name in ("frame", "pair"):
        draws[f"object_{name}"] = draws[name][objects.shares(draws[name], "track")]
    made_from = (objects.columns, objects.categories)
    write_index(index, columns, draws, {"range": {"ranges_s": [RANGE_S]}, "span": {"span": "segment"}}, None, made_from)
    return store, index


def _draw(starts: np.ndarray, k: int) -> np.ndarray:
    first = starts[:, : starts.shape[1] - k + 1].reshape(-1, 1)
    return first + np.arange(k)


def _film(rng: np.random.Generator, frames: int, side: int) -> list[Frame]:
    """A coloured disc that crosses a striped ground."""
    phase = np.arange(side) * rng.uniform(0.1, 0.6)
    ground = 127 + 60 * np.sin(phase)[None, :, None] * rng.uniform(0.3, 1.0, 3)
    start, step = rng.uniform(side * 0.2, side * 0.8, 2), rng.uniform(-2, 2, 2)
    colour, radius = rng.integers(0, 256, 3).tolist(), int(rng.integers(side // 8, side // 4))
    film = []
    for i in range(frames):
        image = np.repeat(ground, side, axis=0).round().astype(np.uint8)
        centre = tuple((start + i * step).astype(int).tolist())
        cv2.circle(image, centre, radius, colour, thickness=-1)
        film.append(Frame(simplejpeg.encode_jpeg(image, quality=90), i / FPS, i, objects=_box(centre, radius, side)))
    return film


def _box(centre: tuple[int, int], radius: int, side: int) -> tuple[TrackBox, ...]:
    """The disc's box, as far as it lies in the picture."""
    x0, y0 = (max(0, at - radius) for at in centre)
    x1, y1 = (min(side, at + radius + 1) for at in centre)
    return (TrackBox(0, "disc", x0, y0, x1, y1),) if x0 < x1 and y0 < y1 else ()
