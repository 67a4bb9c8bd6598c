"""JHMDB: frames of one acting person, 15 joints a frame in MATLAB files, split lists a class (1 train, 2 test)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from components.download.world.body import Array
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, write_lines
from components.download.world.pictures import write_image
from components.download.world.scene import ACTIONS

HEADER_BYTES = 116  # free text at the start of a MATLAB 5 file; scipy puts the time of writing there
LEAD = 1  # number of the leading person


def write(clip: Clip, folder: Path) -> Facts:
    action = ACTIONS[clip.number % len(ACTIONS)]
    frames = folder / "Rename_Images" / action / clip.name
    joints: list[Array] = []
    for number, frame in clip.frames():
        write_image(frames / f"{number + 1:05d}.png", frame.image, clip.params.jpeg_quality)
        joints += [seen.joints for seen in frame.seen if seen.number == LEAD and seen.joints is not None]
    positions = np.stack(joints, axis=-1).transpose(1, 0, 2) + 1  # (2, 15, T), MATLAB counts pixels from 1
    file = folder / "joint_positions" / action / clip.name / "joint_positions.mat"
    file.parent.mkdir(parents=True)
    file.write_bytes(joint_file(positions, (clip.params.width_px, clip.params.height_px)))
    return {"split": clip.split, "frames": len(joints), "name": clip.name, "action": action}


def joint_file(positions: Array, size: tuple[int, int]) -> bytes:
    """joint_positions.mat with `pos_img` (2, 15, T), `pos_world` (the same about the middle, in frame heights)."""
    from scipy.io import savemat  # a second of every worker's start, so only where it is used

    middle = np.array(size, float)[:, None, None] / 2
    world = (positions - middle) / size[1]
    buffer = io.BytesIO()
    savemat(buffer, {"pos_img": positions, "pos_world": world, "scale": np.ones((1, positions.shape[2]))})
    text = b"MATLAB 5.0 MAT-file".ljust(HEADER_BYTES)
    return text + buffer.getvalue()[HEADER_BYTES:]


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    for action in sorted({fact["action"] for fact in facts}):
        own = [fact for fact in facts if fact["action"] == action]
        lines = [f"{fact['name']}.avi {1 if fact['split'] == 'train' else 2}" for fact in own]
        write_lines(out / "splits" / f"{action}_test_split1.txt", lines)


WRITER = Writer(write, finish, theme="people")
