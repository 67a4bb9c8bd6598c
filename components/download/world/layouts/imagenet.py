"""ImageNet's folders: `train/<class>/*.jpg` and `val/<class>/*.jpg`, one square crop a toy.

Every toy is taken once, at the instant (of those at which toys meet the camera) that shows most of it.

With `imagenet_classes: scenes` a class is a clip: whole stills of its first third are to be recognised in those of its
last third, when the camera and the toys have moved on. Every clip is then in both folders.
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
    if params.imagenet_classes == "scenes":
        return _write_scene(clip, folder)
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


def _write_scene(clip: Clip, folder: Path) -> Facts:
    """`stills_per_clip` stills, evenly over the first third for train and over the last third for val."""
    count, third = clip.params.stills_per_clip, clip.params.n_frames / 3
    wanted = {
        int(start + (k + 0.5) * third / count): side
        for side, start in (("train", 0.0), ("val", 2 * third))
        for k in range(count)
    }
    for number, frame in clip.frames(sorted(wanted), truth=False):
        file = folder / wanted[number] / clip.name / f"{clip.name}_{number:05d}.jpg"
        write_image(file, frame.image, clip.params.jpeg_quality)
    return {"split": clip.split, "frames": len(wanted), "scene": clip.name}


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
    scenes = [fact["scene"] for fact in facts if "scene" in fact]
    write_lines(out / "classes.txt", scenes or NAMES)


WRITER = Writer(write, finish)
