"""DAVIS-2017, semi-supervised: frames, palette PNGs with object ids, lists of sequences.

As in the real set, the objects to follow are those of the first frame; toys that enter later are background.
"""

from __future__ import annotations

from pathlib import Path

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split, write_lines
from components.download.world.pictures import davis_palette, write_image, write_indexed
from components.download.world.truth import instances, relabel, with_void


def write(clip: Clip, folder: Path) -> Facts:
    params, palette = clip.params, davis_palette()
    images, masks = (folder / kind / "480p" / clip.name for kind in ("JPEGImages", "Annotations"))
    values: dict[int, int] = {}
    for number, frame in clip.frames():
        if number == 0:
            first = [found.seen.number for found in instances(frame, params.min_object_px)]
            values = {toy: value for value, toy in enumerate(first, start=1)}
        ids = relabel(frame.ids, values)
        write_image(images / f"{number:05d}.jpg", frame.image, params.jpeg_quality)
        write_indexed(masks / f"{number:05d}.png", with_void(ids, ids, params.davis_void_px), palette)
    return {"split": clip.split, "frames": params.n_frames, "name": clip.name, "objects": len(values)}


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    for split in ("train", "val"):
        write_lines(out / "ImageSets" / "2017" / f"{split}.txt", [fact["name"] for fact in of_split(facts, split)])


WRITER = Writer(write, finish)
