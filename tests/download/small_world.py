"""A tiny world and naive readers of what it wrote."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.download.world import WorldParams
from components.download.world.clip import Clip
from components.download.world.layouts import WRITERS
from components.download.world.render import Frame, Seen

ALL = sorted(WRITERS)
PARAMS = WorldParams(
    layouts=ALL, clips=2, train_clips=1, val_clips=1, clip_s=1.0, fps=6, width_px=128, height_px=96, stills_per_clip=2,
    cuts_per_s=0.6, davis_void_px=1, crop_px=48, jpeg_quality=95, workers=1,
)  # fmt: skip


def drawn_frames(layout: str) -> int:
    """Frames that a layout draws: stills, the instants of meetings, or all."""
    if layout in ("voc", "ade20k", "coco"):
        return 2 * PARAMS.stills_per_clip
    if layout == "ytvos":
        return 2 * len(range(0, PARAMS.n_frames, PARAMS.ytvos_every))
    if layout == "imagenet":
        return sum(len(_meetings(clip)) for clip in WRITERS[layout].clips(PARAMS))
    return 2 * PARAMS.n_frames


def _meetings(clip: Clip) -> set[int]:
    return {min(5, round(actor.meets * 6)) for _, _, shot in clip.shots() for actor in shot.actors}


def frames(layout: str, split: str, number: int = 0) -> dict[int, Frame]:
    clip = next(c for c in WRITERS[layout].clips(PARAMS) if (c.split, c.number) == (split, number))
    return dict(clip.frames())


def read_png(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def close(file: Path, image: np.ndarray) -> bool:
    """A JPEG of the image: equal but for the compression."""
    read = cv2.imread(str(file))
    return read is not None and read.shape == image.shape and np.abs(read.astype(int) - image).mean() < 4


def lines(file: Path) -> list[str]:
    text = file.read_text()
    assert text.endswith("\n")
    return text.splitlines()


def naive_void(ids: np.ndarray) -> np.ndarray:
    """Pixels with another id among their eight neighbours."""
    padded = np.pad(ids.astype(int), 1, mode="edge")
    shifts = [padded[1 + dy : 97 + dy, 1 + dx : 129 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.any([shift != ids for shift in shifts], axis=0)


def by_number(frame: Frame) -> list[Seen]:
    return sorted(frame.seen, key=lambda seen: seen.number)
