"""YouTube-VOS: every fifth frame with its mask of object ids, and meta.json, which names each object's category.

Objects are numbered as they enter, so one may be absent from the first frame. Unlike the official valid split, which
keeps its masks back, every mask is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split
from components.download.world.pictures import davis_palette, write_image, write_indexed
from components.download.world.truth import instances, relabel

FOLDERS = {"train": "train", "val": "valid"}


def write(clip: Clip, folder: Path) -> Facts:
    params, palette = clip.params, davis_palette()
    images, masks = (folder / FOLDERS[clip.split] / kind / clip.name for kind in ("JPEGImages", "Annotations"))
    values: dict[int, int] = {}
    objects: dict[str, dict[str, Any]] = {}
    wanted = range(0, params.n_frames, params.ytvos_every)
    for number, frame in clip.frames(wanted):
        for found in instances(frame, params.min_object_px):
            values.setdefault(found.seen.number, len(values) + 1)
        ids = relabel(frame.ids, values)
        for seen in frame.seen:
            value = values.get(seen.number, 0)
            if value and np.any(ids == value):
                entry = objects.setdefault(str(value), {"category": seen.kind, "frames": []})
                entry["frames"].append(f"{number:05d}")
        write_image(images / f"{number:05d}.jpg", frame.image, params.jpeg_quality)
        write_indexed(masks / f"{number:05d}.png", ids, palette)
    return {"split": clip.split, "frames": len(wanted), "name": clip.name, "objects": objects}


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    for split, folder in FOLDERS.items():
        own = of_split(facts, split)
        if own:
            videos = {fact["name"]: {"objects": fact["objects"]} for fact in own}
            (out / folder / "meta.json").write_text(json.dumps({"videos": videos}, indent=1), encoding="utf-8")


WRITER = Writer(write, finish)
