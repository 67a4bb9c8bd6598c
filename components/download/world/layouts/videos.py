"""A corpus: one H.264 file a clip; beside them, where asked for, the tracks of their toys in VidOR's JSON."""

from __future__ import annotations

from pathlib import Path

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.tracks import Tracks
from components.download.world.layouts.writer import Facts, Writer
from components.download.world.video import write_video


def write(clip: Clip, folder: Path) -> Facts:
    file = folder / f"clip-{clip.number:06d}.mp4"
    if clip.params.tracks:
        tracks = Tracks(clip, category=str)
        count = write_video(tracks.images(truth=False), file, clip.params)
        tracks.write(folder / "annotations" / f"{file.stem}.json", file.name)
    else:
        count = write_video((frame.image for _, frame in clip.frames(truth=False)), file, clip.params)
    return {"split": clip.split, "frames": count, "cuts": clip.cuts}


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    """The files speak for themselves."""


WRITER = Writer(write, finish, one_split=True, cuts=True)
