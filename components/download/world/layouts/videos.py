"""A corpus: one H.264 file a clip, nothing else."""

from __future__ import annotations

from pathlib import Path

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer
from components.download.world.video import write_video


def write(clip: Clip, folder: Path) -> Facts:
    frames = (frame.image for _, frame in clip.frames(truth=False))
    count = write_video(frames, folder / f"clip-{clip.number:06d}.mp4", clip.params)
    return {"split": clip.split, "frames": count, "cuts": clip.cuts}


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    """The files speak for themselves."""


WRITER = Writer(write, finish, one_split=True, cuts=True)
