"""VidOR: H.264 files and one JSON a video with the box of every toy in every frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.download.world.classes import BY_NAME
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer
from components.download.world.render import Frame
from components.download.world.truth import instances
from components.download.world.video import write_video

FOLDERS = {"pretrain": "training", "train": "training", "val": "validation"}
PER_FOLDER = 1000  # VidOR keeps its videos in numbered folders


def write(clip: Clip, folder: Path) -> Facts:
    group, video = f"{clip.number // PER_FOLDER:04d}", f"{clip.number:010d}"
    tracks: list[list[dict[str, Any]]] = []
    kinds: dict[int, str] = {}
    tids: dict[tuple[int, int], int] = {}  # (shot, number) -> track, in order of first sight

    def images() -> Iterator[NDArray[np.uint8]]:
        for number, frame in clip.frames():
            shot = sum(number >= cut for cut in clip.cuts)
            tracks.append(_boxes(frame, shot, tids, kinds, clip.params))
            yield frame.image

    file = folder / "video" / group / f"{video}.mp4"
    file.parent.mkdir(parents=True)
    count = write_video(images(), file, clip.params)
    notes = _document(clip, f"{group}/{video}.mp4", kinds, tracks)
    path = folder / "annotation" / FOLDERS[clip.split] / group / f"{video}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notes), encoding="utf-8")
    return {"split": clip.split, "frames": count}


def _boxes(
    frame: Frame, shot: int, tids: dict[tuple[int, int], int], kinds: dict[int, str], params: WorldParams
) -> list[dict[str, Any]]:
    """The trajectory entries of one frame. Toys of another shot are other tracks."""
    entries = []
    for found in instances(frame, params.min_object_px):
        tid = tids.setdefault((shot, found.seen.number), len(tids))
        kinds[tid] = BY_NAME[found.seen.kind].vidor
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), found.box, strict=True))
        entries.append({"tid": tid, "bbox": box, "generated": 0, "tracker": "none"})
    return entries


def _document(clip: Clip, path: str, kinds: dict[int, str], tracks: list[list[dict[str, Any]]]) -> dict[str, Any]:
    params = clip.params
    return {
        "version": "VERSION 1.0",
        "video_id": Path(path).stem,
        "video_path": path,
        "frame_count": len(tracks),
        "fps": params.fps,
        "width": params.width_px,
        "height": params.height_px,
        "subject/objects": [{"tid": tid, "category": kind} for tid, kind in sorted(kinds.items())],
        "trajectories": tracks,
        "relation_instances": [],
    }


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    """Each video's JSON stands alone."""


WRITER = Writer(write, finish, one_split=True, cuts=True)
