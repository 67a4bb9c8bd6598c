"""JHMDB: clips of one acting person with 15 joints on every frame (Jhuang et al., ICCV 2013).

Rename_Images/<class>/<clip>/00001.png    joint_positions/<class>/<clip>/joint_positions.mat
splits/<class>_test_split1.txt, a line a clip: `<clip>.avi 1` (train) or `<clip>.avi 2` (test)
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.common.outputs import atomic_file
from components.evaluate.images import pictures_in, size_of

JOINTS = [
    *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow"),
    *("left elbow", "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle"),
]
PARENTS = [1, 1, 0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10]  # where each joint's bone leads; the belly is the root
FRAMES, POSES, POSE_FILE = "Rename_Images", "joint_positions", "joint_positions.mat"
PARTS = {"train": "1", "test": "2"}
HEADER = b"MATLAB 5.0 MAT-file".ljust(116)  # free text, where scipy puts the time of writing

Joints = NDArray[np.float64]  # (T, 15, 2) x, y in pixels counted from 0


@dataclass(frozen=True)
class Clip:
    """One clip: as many frames as there are poses, in order."""

    action: str
    name: str
    frames: tuple[Path, ...]
    joints: Joints
    height: int
    width: int

    @property
    def place(self) -> Path:
        """Where its joints lie below a folder of poses."""
        return pose_place(self.action, self.name)


def read_jhmdb(root: Path, split: int = 1, part: str = "test", split_folder: str = "splits") -> list[Clip]:
    """The clips of one part of a split, by class. Frames beyond the last pose are left out.

    Raises:
        StageError: a folder, list or file is missing, a .mat is unreadable, or a clip has fewer frames than poses.
    """
    for folder in (FRAMES, POSES, split_folder):
        if not (root / folder).is_dir():
            raise StageError(f"not in JHMDB layout, no {folder} folder", where=root)
    return [_clip(root, action, name) for action, name in listed(root / split_folder, split, part)]


def listed(folder: Path, split: int, part: str) -> list[tuple[str, str]]:
    """(class, clip) of one part of a split."""
    ending = f"_test_split{split}.txt"
    files = sorted(folder.glob(f"*{ending}"))
    if not files:
        raise StageError(f"no lists of split {split} (<class>{ending})", where=folder)
    found = []
    for file in files:
        for number, line in enumerate(_text(file).splitlines(), start=1):
            words = line.split()
            if words and (len(words) != 2 or words[1] not in {"0", *PARTS.values()}):
                raise StageError(f"line {number} is not `<clip>.avi 1` or `<clip>.avi 2`: {line.strip()}", where=file)
            if words and words[1] == PARTS[part]:
                found.append((file.name.removesuffix(ending), words[0].removesuffix(".avi")))
    if not found:
        raise StageError(f"split {split} has no {part} clips", where=folder)
    return found


def pose_place(action: str, name: str) -> Path:
    """<class>/<clip>/joint_positions.mat"""
    return Path(action, name, POSE_FILE)


def read_joints(file: Path) -> Joints:
    """Positions (T, 15, 2), counted from 0; MATLAB's count from 1.

    Raises:
        StageError: the file is missing or unreadable, or holds no (2, 15, T) array `pos_img` of finite numbers.
    """
    from scipy.io import loadmat

    if not file.is_file():
        raise StageError("no joint positions", where=file)
    try:
        content = loadmat(file)
    except Exception as error:  # scipy raises whatever its parser stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StageError(f"not a readable .mat file, {reason}", where=file) from None
    if "pos_img" not in content:
        raise StageError("the .mat file has no `pos_img`", where=file)
    positions = np.asarray(content["pos_img"])
    if positions.ndim != 3 or positions.shape[:2] != (2, len(JOINTS)) or positions.dtype.kind not in "fiu":
        raise StageError(f"`pos_img` must be numbers (2, 15, T), it is {positions.shape}", where=file)
    if not positions.size:
        raise StageError("`pos_img` has no frames", where=file)
    if not np.isfinite(positions).all():
        raise StageError("`pos_img` has values that are not finite", where=file)
    return positions.astype(np.float64).transpose(2, 1, 0) - 1


def write_joints(file: Path, joints: Joints) -> None:
    """Positions (T, 15, 2), counted from 0, as JHMDB writes them; a joint at (-1, -1) is then at (0, 0)."""
    from scipy.io import savemat

    content = io.BytesIO()
    savemat(content, {"pos_img": joints.transpose(2, 1, 0) + 1})
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_bytes(HEADER + content.getvalue()[len(HEADER) :])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise StageError("the list is not readable as text", where=file) from None


def _clip(root: Path, action: str, name: str) -> Clip:
    folder = root / FRAMES / action / name
    joints = read_joints(root / POSES / pose_place(action, name))
    if not folder.is_dir():
        raise StageError(f"clip {name} is listed but has no frames", where=folder)
    frames = [file for file in pictures_in(folder) if file.suffix.lower() == ".png"]
    if len(frames) < len(joints):
        raise StageError(f"clip {name} has {len(frames)} frames and {len(joints)} poses", where=folder)
    height, width = size_of(frames[0])
    return Clip(action, name, tuple(frames[: len(joints)]), joints, height, width)
