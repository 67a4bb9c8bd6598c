"""ImageNet's folders: `train/<class>/*.jpg` and `val/<class>/*.jpg`, one square crop a toy.

Every toy is taken once, at the instant (of those at which toys meet the camera) that shows most of it.
"""

from __future__ import annotations

from pathlib import Path

import cv2

from components.download.world.classes import NAMES
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, write_lines
from components.download.world.pictures import Bytes, write_image
from components.download.world.render import Frame
from components.download.world.truth import Instance, instances


def write(clip: Clip, folder: Path) -> Facts:
    params = clip.params
    best: dict[int, tuple[float, Instance, Bytes]] = {}
    moments = _moments(clip)
    for _, frame in clip.frames(moments):
        for found in _presentable(frame, params):
            known = best.get(found.seen.number)
            if known is None or found.visible > known[0]:
                best[found.seen.number] = found.visible, found, crop(frame.image, found, params)
    for number, (_, found, image) in sorted(best.items()):
        file = folder / clip.split / found.seen.kind / f"{found.seen.kind}_{clip.number:06d}_{number:03d}.jpg"
        write_image(file, image, params.jpeg_quality)
    return {"split": clip.split, "frames": len(moments), "kinds": [f.seen.kind for _, f, _ in best.values()]}


def _moments(clip: Clip) -> list[int]:
    last, fps = clip.params.n_frames - 1, clip.params.fps
    meetings = [round(actor.meets * fps) for _, _, shot in clip.shots() for actor in shot.actors]
    return sorted({min(last, frame) for frame in meetings})


def _presentable(frame: Frame, params: WorldParams) -> list[Instance]:
    """Toys that are wholly in the frame and not hidden too much."""
    found = instances(frame, params.min_object_px)
    return [i for i in found if i.visible >= params.crop_min_visible and not i.touches_edge(frame.ids.shape)]


def crop(image: Bytes, found: Instance, params: WorldParams) -> Bytes:
    """A square about the toy, moved (and at the last shrunk) to lie in the frame, at `crop_px`."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = found.box
    side = min(round(params.crop_margin * max(x1 - x0, y1 - y0)), height, width)
    left = min(max(0, (x0 + x1 - side) // 2), width - side)
    top = min(max(0, (y0 + y1 - side) // 2), height - side)
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (params.crop_px, params.crop_px), interpolation=cv2.INTER_AREA)


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    write_lines(out / "classes.txt", NAMES)


WRITER = Writer(write, finish)
