"""Where every toy of a clip is, frame by frame, as VidOR's JSON says it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.download.world.clip import Clip
from components.download.world.render import Frame
from components.download.world.truth import instances

SIDES = ("xmin", "ymin", "xmax", "ymax")


class Tracks:
    """Gathers the boxes of visible pixels while the frames of a clip go by.

    Args:
        clip: the clip; a toy of another shot of it is another track.
        category: what a kind of toy is called.
    """

    def __init__(self, clip: Clip, category: Callable[[str], str]) -> None:
        self.clip, self.category = clip, category
        self.trajectories: list[list[dict[str, Any]]] = []
        self._categories: dict[int, str] = {}
        self._tids: dict[tuple[int, int], int] = {}  # (shot, number) -> track, in order of first sight

    def images(self, truth: bool = True) -> Iterator[NDArray[np.uint8]]:
        """The clip's pictures, each noted as it passes. Boxes come from the id buffer, which needs no `truth`."""
        for number, frame in self.clip.frames(truth=truth):
            shot = sum(number >= cut for cut in self.clip.cuts)
            self.trajectories.append(self._boxes(frame, shot))
            yield frame.image

    def _boxes(self, frame: Frame, shot: int) -> list[dict[str, Any]]:
        entries = []
        for found in instances(frame, self.clip.params.min_object_px):
            tid = self._tids.setdefault((shot, found.seen.number), len(self._tids))
            self._categories[tid] = self.category(found.seen.kind)
            box = dict(zip(SIDES, found.box, strict=True))
            entries.append({"tid": tid, "bbox": box, "generated": 0, "tracker": "none"})
        return entries

    def write(self, file: Path, video: str) -> None:
        """Write the JSON of the frames seen so far; `video` is the video's path as the JSON tells it."""
        params = self.clip.params
        document = {
            "version": "VERSION 1.0",
            "video_id": Path(video).stem,
            "video_path": video,
            "frame_count": len(self.trajectories),
            "fps": params.fps,
            "width": params.width_px,
            "height": params.height_px,
            "subject/objects": [{"tid": tid, "category": name} for tid, name in sorted(self._categories.items())],
            "trajectories": self.trajectories,
            "relation_instances": [],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document), encoding="utf-8")
