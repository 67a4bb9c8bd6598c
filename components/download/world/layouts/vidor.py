"""VidOR: H.264 files and one JSON a video with the box of every toy in every frame."""

from __future__ import annotations

from pathlib import Path

from components.download.world.classes import BY_NAME
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.tracks import Tracks
from components.download.world.layouts.writer import Facts, Writer
from components.download.world.video import write_video

FOLDERS = {"pretrain": "training", "train": "training", "val": "validation"}
PER_FOLDER = 1000  # VidOR keeps its videos in numbered folders


def write(clip: Clip, folder: Path) -> Facts:
    group, video = f"{clip.number // PER_FOLDER:04d}", f"{clip.number:010d}"
    tracks = Tracks(clip, lambda kind: BY_NAME[kind].vidor)
    file = folder / "video" / group / f"{video}.mp4"
    file.parent.mkdir(parents=True)
    count = write_video(tracks.images(), file, clip.params)
    tracks.write(folder / "annotation" / FOLDERS[clip.split] / group / f"{video}.json", f"{group}/{video}.mp4")
    return {"split": clip.split, "frames": count}


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    """Each video's JSON stands alone."""


WRITER = Writer(write, finish, one_split=True, cuts=True)
