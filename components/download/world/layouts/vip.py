"""VIP (Video Instance-level Parsing), fine annotations: frames and grey PNGs with the 20 part categories."""

from __future__ import annotations

from pathlib import Path

from components.download.world.classes import VIP_PARTS
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split, write_lines
from components.download.world.pictures import write_grey, write_image


def write(clip: Clip, folder: Path) -> Facts:
    name = _name(clip)
    for number, frame in clip.frames():
        write_image(folder / "Images" / name / f"{number + 1:012d}.jpg", frame.image, clip.params.jpeg_quality)
        write_grey(folder / "Annotations" / "Category_ids" / name / f"{number + 1:012d}.png", frame.parts)
    return {"split": clip.split, "frames": clip.params.n_frames, "name": name}


def _name(clip: Clip) -> str:
    """videosN: odd numbers train, even numbers val, so that a name does not depend on how many clips there are."""
    return f"videos{2 * clip.number + (1 if clip.split == 'train' else 2)}"


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    for split in ("train", "val"):
        write_lines(out / "lists" / f"{split}_videos.txt", [fact["name"] for fact in of_split(facts, split)])
    write_lines(out / "lists" / "categories.txt", [f"{index} {part}" for index, part in enumerate(VIP_PARTS)])


WRITER = Writer(write, finish, theme="people")
