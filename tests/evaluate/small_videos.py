"""Small benchmarks of videos in their published layouts: joints, parts, boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.evaluate.small import COLOURS, textured, write_image, write_list

SIZE = (36, 52)


def jhmdb(root: Path, n_frames: int = 5) -> Path:
    """Two test clips and a training clip of two classes: joints are coloured dots that move to the right."""
    rng = np.random.default_rng(3)
    parts = {"walk": {"w1": 2, "w2": 1}, "wave": {"v1": 2}}
    for action, clips in parts.items():
        for name in clips:
            places = rng.uniform((4, 4), (36, 32), (15, 2))
            joints = places + np.arange(n_frames)[:, None, None] * (2.0, 0.5)
            for t, points in enumerate(joints):
                pixels = textured(rng, COLOURS[3], *SIZE)
                for j, (x, y) in enumerate(points.astype(int)):
                    pixels[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = COLOURS[j % 3]
                write_image(root / "Rename_Images" / action / name / f"{t + 1:05d}.png", pixels)
            write_mat(root / "joint_positions" / action / name / "joint_positions.mat", joints)
        write_list(root / "splits" / f"{action}_test_split1.txt", [f"{n}.avi {part} " for n, part in clips.items()])
    return root


def write_mat(file: Path, joints: np.ndarray) -> None:
    """(T, 15, 2) from 0 to MATLAB's (2, 15, T) from 1."""
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"pos_img": joints.transpose(2, 1, 0) + 1})


def vip(root: Path, names: tuple[str, ...] = ("videos1", "videos7"), n_frames: int = 4) -> Path:
    """Two blocks, of classes 4 and 13, that move over a background."""
    rng = np.random.default_rng(4)
    for name in names:
        for t in range(n_frames):
            labels = np.zeros(SIZE, np.uint8)
            labels[4:20, 2 + 3 * t : 18 + 3 * t] = 4
            labels[20:32, 30 - t : 44 - t] = 13
            pixels = textured(rng, COLOURS[3], *SIZE)
            for i in (4, 13):
                pixels[labels == i] = textured(rng, COLOURS[i % 5], *SIZE)[labels == i]
            write_image(root / "Images" / name / f"{t + 1:012d}.jpg", pixels)
            write_grey(root / "Annotations/Category_ids" / name / f"{t + 1:012d}.png", labels)
    write_list(root / "lists/val_videos.txt", names)
    return root


def write_grey(file: Path, labels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(file)


def got10k(root: Path, names: tuple[str, ...] = ("GOT-10k_Val_000001", "GOT-10k_Val_000002"), n: int = 5) -> Path:
    """A block that moves to the right; in the second video it cannot be seen in frame 3."""
    rng = np.random.default_rng(5)
    for k, name in enumerate(names):
        boxes, cover = [], []
        for t in range(n):
            pixels = textured(rng, COLOURS[3], *SIZE)
            hidden = k == 1 and t == 2
            x = 3 + 4 * t
            if not hidden:
                pixels[6:24, x : x + 16] = textured(rng, COLOURS[1], 18, 16)
            write_image(root / "val" / name / f"{t + 1:08d}.jpg", pixels)
            boxes.append("0.0000,0.0000,0.0000,0.0000" if hidden else f"{x}.0000,6.0000,16.0000,18.0000")
            cover.append("0" if hidden else "8")
        write_list(root / "val" / name / "groundtruth.txt", boxes)
        write_list(root / "val" / name / "cover.label", cover)
        write_list(root / "val" / name / "meta_info.ini", ["[METAINFO]", "url: x", "resolution: (52, 36)"])
    write_list(root / "val/list.txt", names)
    return root
