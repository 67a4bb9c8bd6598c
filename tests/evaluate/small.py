"""Small benchmarks in their published layouts, and the stage run in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from components.common.stage import main
from components.evaluate.__main__ import STAGE, run
from components.evaluate.images import pascal_palette

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def real_data(name: str) -> Path:
    """A folder of real clips, or a skip where it is absent."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no real data here ({name})")
    return DATA / name


def write_image(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_labels(file: Path, labels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(pascal_palette())
    image.save(file)


COLOURS = np.array([[200, 60, 50], [50, 90, 200], [60, 180, 80], [210, 190, 60], [140, 60, 170], [90, 200, 200]])


def textured(rng: np.random.Generator, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(colour + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)


def imagenet(root: Path, n_classes: int = 6, n_train: int = 4, n_val: int = 2, side: int = 40) -> Path:
    """Classes differ by colour."""
    rng = np.random.default_rng(0)
    for split, n in (("train", n_train), ("val", n_val)):
        for c in range(n_classes):
            for i in range(n):
                write_image(root / split / f"class{c}" / f"{i}.png", textured(rng, COLOURS[c], side, side + 9))
    return root


def davis(root: Path, names: tuple[str, ...] = ("a", "b"), n_frames: int = 5, size: tuple[int, int] = (36, 52)) -> Path:
    """Two squares that move over a plain ground; the larger one is object 1."""
    rng = np.random.default_rng(1)
    for name in names:
        for t in range(n_frames):
            labels = np.zeros(size, np.uint8)
            labels[4:20, 2 + 3 * t : 18 + 3 * t] = 1
            labels[20:30, 30 - t : 42 - t] = 2
            pixels = textured(rng, COLOURS[3], *size)
            for i in (1, 2):
                pixels[labels == i] = textured(rng, COLOURS[i], *size)[labels == i]
            write_image(root / "JPEGImages/480p" / name / f"{t:05d}.jpg", pixels)
            write_labels(root / "Annotations/480p" / name / f"{t:05d}.png", labels)
    write_list(root / "ImageSets/2017/val.txt", names)
    return root


def voc(root: Path, n_train: int = 6, n_val: int = 3, side: int = 48) -> Path:
    """A square of class 1, 2 or 3 on a ground of class 0, with a void contour."""
    rng = np.random.default_rng(2)
    for split, n in (("train", n_train), ("val", n_val)):
        names = [f"{split}{i}" for i in range(n)]
        for i, name in enumerate(names):
            labels = np.zeros((side, side + 8), np.uint8)
            x, y = rng.integers(2, side // 2, 2)
            labels[y : y + side // 2, x : x + side // 2] = 255
            labels[y + 1 : y + side // 2 - 1, x + 1 : x + side // 2 - 1] = 1 + i % 3
            pixels = textured(rng, COLOURS[5], *labels.shape)
            inside = labels > 0
            pixels[inside] = textured(rng, COLOURS[i % 3], *labels.shape)[inside]
            write_image(root / "JPEGImages" / f"{name}.jpg", pixels)
            write_labels(root / "SegmentationClass" / f"{name}.png", labels)
        write_list(root / "ImageSets/Segmentation" / f"{split}.txt", names)
    return root


def ytvos(root: Path, names: tuple[str, ...] = ("a", "b", "c"), split: str = "valid", side: int = 48) -> Path:
    """Squares of object ids 1, 2, 5 whose kinds differ from video to video; the second enters late; every 5th frame."""
    rng = np.random.default_rng(4)
    kinds, videos = ["zebra", "ape", "cow"], {}
    for v, name in enumerate(names):
        own = {1: kinds[v % 3], 2: kinds[(v + 1) % 3], 5: kinds[(v + 1) % 3]}
        videos[name] = {"objects": {str(i): {"category": kind, "frames": []} for i, kind in own.items()}}
        for t in range(6):
            labels = np.zeros((side, side + 16), np.uint8)
            labels[4:24, 2 + 3 * t : 22 + 3 * t] = 1
            if t:
                labels[28:44, 8:24] = 2
            labels[26:46, 40 - t : 60 - t] = 5
            pixels = textured(rng, COLOURS[3], *labels.shape)
            for i, kind in own.items():
                pixels[labels == i] = textured(rng, COLOURS[kinds.index(kind)], *labels.shape)[labels == i]
            write_image(root / split / "JPEGImages" / name / f"{5 * t:05d}.jpg", pixels)
            write_labels(root / split / "Annotations" / name / f"{5 * t:05d}.png", labels)
    (root / split / "meta.json").write_text(json.dumps({"videos": videos}))
    return root


def ade20k(root: Path, n_train: int = 6, n_val: int = 3, size: tuple[int, int] = (40, 56)) -> Path:
    """Two halves of classes 1 and 5 with a band of "other" between them and a patch of class 2 or 3."""
    rng = np.random.default_rng(4)
    for split, name, n in (("training", "train", n_train), ("validation", "val", n_val)):
        for i in range(n):
            labels = np.where(np.arange(size[1]) < size[1] // 2, 1, 5) * np.ones((size[0], 1), np.uint8)
            labels[:, size[1] // 2 - 1 : size[1] // 2 + 1] = 0
            labels[8:26, 4 + i : 22 + i] = 2 + i % 2
            pixels = textured(rng, COLOURS[5], *size)
            for number in (1, 2, 3, 5):
                pixels[labels == number] = textured(rng, COLOURS[number % 5], *size)[labels == number]
            file = f"ADE_{name}_{i + 1:08d}"
            write_image(root / "images" / split / f"{file}.jpg", pixels)
            write_image(root / "annotations" / split / f"{file}.png", labels.astype(np.uint8))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.5\t1\t1\t1\twall", "5\t0.1\t1\t1\t1\ttree, shrub "]
    (root / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    return root


def write_list(file: Path, names: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(names))  # no newline at the end: such lists exist


SMALL: dict[str, dict[str, Any]] = {
    "knn": {"resize_px": 32, "crop_px": 32, "batch_images": 5, "k": [1, 5, 200], "primary_k": 5, "chunk_rows": 7},
    "vos": {"input_px": 32, "long_side_multiple_px": 8, "radius_cells": 3, "batch_images": 2, "gif_width_px": 40},
    "pose": {"input_px": [32, 48], "radius_cells": 4, "batch_images": 2, "gif_width_px": 40},
    "parts": {"input_px": 48, "long_side_multiple_px": 8, "radius_cells": 3, "batch_images": 2, "gif_width_px": 40},
    "tracking": {"input_px": 32, "long_side_multiple_px": 8, "radius_cells": 3, "batch_images": 2, "gif_width_px": 40},
    "voc_linear": {
        "train_set": "train",
        "train_masks": "SegmentationClass",
        "num_classes": 4,
        "input_px": 32,
        "label_px": 24,
        "epochs": 6,
        "batch_size": 4,
        "lr": 0.1,
        "batch_images": 2,
    },
    "video_clustering": {
        "layout": "ytvos",
        "split": "valid",
        "frames": 3,
        "input_px": 32,
        "eval_px": 24,
        "dataset_px": 12,
        "clusters": ["gt", 6],
        "batch_clips": 2,
        "niter": 8,
        "nredo": 2,
        "batch_images": 2,
    },
    "voc_clustering": {"input_px": 32, "map_px": 20, "num_classes": 4, "clusters": [4, 12], "primary_k": 4, "niter": 8,
                       "nredo": 2, "kmeans_seeds": [0, 1], "batch_images": 2},
    "foreground": {"train_set": "train", "train_masks": "SegmentationClass", "input_px": 64, "map_px": 20,
                   "clusters": 12, "niter": 8, "nredo": 2, "batch_images": 2, "num_classes": 4},
    "retrieval": {"train_set": "train", "train_masks": "SegmentationClass", "num_classes": 4, "input_px": 32,
                  "memory": 100, "neighbours": 5, "batch_images": 2},
}  # fmt: skip
SMALL["coco"] = {
    "protocol": "mini", "position_px": [32, 48], "channels": 16, "rpn_samples": 32, "rpn_before_nms": [60, 40],
    "rpn_after_nms": [40, 20], "roi_samples": 24, "box_convs": 1, "box_fc": 32, "mask_convs": 1,
    "short_px": [40, 48], "long_px": 80, "crop_short_px": [56], "crop_px": [32, 48], "test_short_px": 44,
    "test_long_px": 80, "epochs": 2, "drop_epochs": [1], "batch_size": 3, "images_per_pass": 2, "warmup_iterations": 1,
    "lr": 1e-3, "checkpointing": False, "log_every": 1, "checkpoint_every_s": 0, "batch_images": 2, "pictures": 2,
    "score_threshold": 0.0, "shown_score": 0.0, "detections": 5,
}  # fmt: skip
SMALL["discovery"] = {"batch_images": 2}
SMALL["voc_fcn"] = {**SMALL["voc_linear"], "channels": 8, "epochs": 3, "workers": 1}
SMALL["linear"] = {"resize_px": 32, "crop_px": 32, "batch_images": 5, "epochs": 3, "batch_size": 8, "lrs": [0.1, 10.0]}
SMALL["ade_upernet"] = {
    **{"num_classes": 6, "crop_px": 32, "stride_px": 20, "short_px": 32, "long_px": 128, "iterations": 5},
    **{"batch_size": 2, "warmup_iterations": 2, "lr": 1e-3, "channels": 8, "aux_channels": 8, "workers": 1},
    **{"checkpoint_every_s": 0, "pictures": 2},
}
SMALL["ade_linear"] = {key: value for key, value in SMALL["ade_upernet"].items() if "channels" not in key} | {
    "lr": [1e-3, 1e-1],
    "held_out": 2,
}


def evaluate(folder: Path, task: str, model: Path | str, benchmark: Path, out: str = "out", **params: Any) -> int:
    """Run the stage; its outputs are `<folder>/<out>.json` and `<folder>/<out>`."""
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump({"seed": 0, "evaluate": {task: {"strict": True, **SMALL[task], **params}}}))
    argv = ["--params", str(file), "--method", "untrained", "--task", task, "--model", str(model)]
    argv += ["--benchmark", str(benchmark), "--metrics", str(folder / f"{out}.json"), "--details", str(folder / out)]
    return main(STAGE, run, argv)
