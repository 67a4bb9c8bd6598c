"""Semantic segmentation by dense nearest neighbours, without training: Hummingbird's in-context evaluation.

Protocol of open-hummingbird-eval for Balazevic et al. (arXiv:2306.01667): a memory of labelled training patches, each
patch's key its normalised feature and its label the mean one-hot of its pixels; of each picture as many patches as the
memory's size allows, rare classes first. A validation patch asks its 30 nearest neighbours (cosine), which vote by a
softmax at 0.02; votes are upsampled bilinearly to the input's size, and the largest one is the prediction. mIoU at that
size, without void (255), over all classes.

The search here is exact, the published tables use an approximate one. The released evaluator matches predicted to true
classes (Hungarian) although both bear names, and its third std is 0.255, a slip. Both are in the published figures and
the defaults here: `matching: none` and `pixel_std: null` do without them.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.common.errors import StageError
from components.common.outputs import atomic_file
from components.evaluate.cluster_maps import add_list, maps_in
from components.evaluate.image_clusters import count_maps
from components.evaluate.images import read_index, read_rgb, write_index
from components.evaluate.layouts.voc import VOID, Segmentation, read_voc
from components.evaluate.matching import Average, Matched, label_rows, match, merged, score
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, overlay, spread
from components.evaluate.sizes import fitted
from components.evaluate.stills import class_names, count_classes
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from torch import Tensor

    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank
    from components.evaluate.hummingbird import Asking, Filling
    from components.evaluate.memory import Features, Memory


class Args(TaskParams):
    """The published constants."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {"query_rows", "chunk_rows"}

    train_set: str = Field("trainaug", description="list that fills the memory")
    train_masks: str = Field("SegmentationClassAug", description="folder of its label maps")
    val_set: str = "val"
    val_masks: str = "SegmentationClass"
    num_classes: int | None = Field(21, ge=2, le=255, description="null: as many as the label maps hold")
    input_px: int = Field(512, gt=0, description="side of the squares that enter and are scored; 504 for patches of 14")
    memory: int | None = Field(10_240_000, gt=0, description="patches in the memory; null: all of every picture")
    epochs: int = Field(2, gt=0, description="passes over the training list, each with other crops")
    augment: bool = Field(True, description="crop and jitter the memory's pictures")
    crop_scale: tuple[float, float] = Field((0.5, 2.0), description="area of a crop in the picture's: least, most")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width over height of a crop: least, most")
    jitter: float = Field(0.1, ge=0, le=0.5, description="strength of each colour jitter")
    jitter_p: float = Field(0.5, ge=0, le=1, description="chance of each colour jitter")
    neighbours: int = Field(30, gt=0)
    temperature: float = Field(0.02, gt=0)
    pixel_std: tuple[float, float, float] | None = Field(
        (0.229, 0.224, 0.255), description="as released; null: the encoder's own"
    )
    matching: Literal["none", "hungarian"] = Field("hungarian", description="as released; none: classes by name")
    average: Literal["present", "all"] = Field("all", description="classes in the mean: those that occur, or every one")
    query_rows: int = Field(8192, gt=0, description="patches that ask at once; memory only")
    chunk_rows: int = Field(65_536, gt=0, description="keys on the GPU at once; memory only")


@task("retrieval", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Fill the memory from one split, let the other ask, score the answers."""
    from components.evaluate.hummingbird import fill
    from components.evaluate.square_features import square_patches

    args, size_notes = fitted(args, "input_px", encoder.patch_size)
    train = read_voc(benchmark, args.train_set, args.train_masks)
    val = read_voc(benchmark, args.val_set, args.val_masks)
    n_classes = count_classes([*train.masks, *val.masks], args.num_classes)
    forward, how = forward_of(encoder, args), filling_of(encoder, n_classes, args)
    with job.progress(len(train.names) * args.epochs, "pictures remembered") as progress:
        memory = fill(job.cache / "memory", train, forward, encoder.dim, how, job.device, progress)
    taken = f"patches, std {args.pixel_std}" if args.pixel_std else "patches"
    bank = square_patches(encoder, val.images, args.input_px, "val", args, job, forward, taken)
    predict(val, bank, memory, args, job)
    shutil.copytree(job.cache / "predictions", job.details / "predictions")
    files = [(mask, job.details / "predictions" / f"{n}.png") for n, mask in zip(val.names, val.masks, strict=True)]
    metrics, found = scored(files, n_classes, args.matching, args.average)
    if args.pictures:
        draw(job.details / "retrieval.png", train, val, bank, memory, args, job)
    return TaskResult(
        protocol=protocol_name(args),
        metrics=metrics,
        primary="miou",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.names)} train, {len(val.names)} val pictures, "
        f"{n_classes} classes",
        rows=label_rows(found, class_names(n_classes)),
        notes=[*size_notes, f"{len(memory.keys)} patches in the memory, {memory.quota} of each picture and pass"],
    )


def forward_of(encoder: Encoder, args: Args) -> Callable[[Tensor], Tensor]:
    """uint8 batch -> patch grids."""
    from components.evaluate.features import normalised

    return lambda pixels: encoder.patches(normalised(pixels, encoder.mean, args.pixel_std or encoder.std))


def filling_of(encoder: Encoder, n_classes: int, args: Args) -> Filling:
    """The parameters that govern the memory."""
    from components.evaluate.augment import Augment
    from components.evaluate.hummingbird import Filling

    augment = Augment(args.crop_scale, args.crop_ratio, args.jitter, args.jitter_p) if args.augment else None
    return Filling(
        side=args.input_px,
        patch=encoder.patch_size,
        n_classes=n_classes,
        limit=args.memory,
        epochs=args.epochs,
        augment=augment,
        seed=args.seed,
        batch=args.batch_images,
        workers=args.workers,
    )


def asking_of(args: Args, job: Job) -> Asking:
    """The parameters that govern the search."""
    from components.evaluate.hummingbird import Asking

    return Asking(args.neighbours, args.temperature, job.device, args.chunk_rows)


def protocol_name(args: Args) -> str:
    """All that two figures must share."""
    size = "unbounded" if args.memory is None else str(args.memory)
    words = [f"hummingbird, input {args.input_px}, memory {size}, {args.neighbours} neighbours, exact"]
    words += [f"mean over classes {args.average}"]
    words += ["hungarian" if args.matching == "hungarian" else "classes by name"]
    return ", ".join(words)


def predict(val: Segmentation, bank: FeatureBank, memory: Memory, args: Args, job: Job) -> None:
    """Write the label map of every picture that has none yet, a few pictures asking at once."""
    from components.evaluate.hummingbird import answers

    folder = job.cache / "predictions"
    todo = [i for i, name in enumerate(val.names) if not (folder / f"{name}.png").exists()]
    cells = int(np.prod(bank.rows(np.array([0])).shape[1:3]))
    step = max(1, args.query_rows // cells)
    with job.progress(len(todo), "pictures answered") as progress:
        for start in range(0, len(todo), step):
            numbers = todo[start : start + step]
            votes, _ = answers(bank, numbers, memory, asking_of(args, job))
            for number, grid in zip(numbers, votes, strict=True):
                with atomic_file(folder / f"{val.names[number]}.png") as partial:
                    write_index(partial, decode(grid, args.input_px))
            progress.update(len(numbers))


def decode(votes: Features, side: int) -> NDArray[np.uint8]:
    """Label map (side, side) of votes (h, w, C), upsampled bilinearly."""
    from components.evaluate.clustering import upsampled

    return upsampled(votes[None], side)[0].argmax(-1).astype(np.uint8)


def scored(
    files: list[tuple[Path, Path]], n_classes: int, matching: str, average: Average
) -> tuple[dict[str, float], Matched]:
    """mIoU and pixel accuracy of (true, predicted) label maps; the truth is brought to the prediction's square."""
    counts = count_maps(files, n_classes)
    counts = np.pad(counts, ((0, 0), (0, max(0, n_classes - counts.shape[1]))))
    if counts.shape[1] > n_classes:
        raise StageError(f"label {counts.shape[1] - 1} is predicted in a benchmark of {n_classes} classes")
    labels = np.arange(n_classes) if average == "all" else np.flatnonzero(counts.sum(1))
    named = score(counts, np.arange(n_classes), labels) if counts.any() else None
    found = match(counts, "hungarian", average) if matching == "hungarian" else named
    if found is None:
        raise StageError("nothing to score: every pixel is void")
    right = np.trace(merged(counts, found.label_of))
    return {"miou": found.miou, "pixel_accuracy": float(right / counts.sum())}, found


def draw(
    file: Path, train: Segmentation, val: Segmentation, bank: FeatureBank, memory: Memory, args: Args, job: Job
) -> None:
    """Pictures spread over the split: image, truth, answer, and the training picture that answered most often."""
    from components.evaluate.hummingbird import answers

    rows = []
    for i in spread(len(val.names), args.pictures):
        image = np.array(read_rgb(val.images[i]))
        votes, asked = answers(bank, [int(i)], memory, asking_of(args, job))
        source = int(np.bincount(asked.ravel() // memory.quota % len(train.names)).argmax())
        answer = overlay(image, decode(votes[0], args.input_px))
        seen = overlay(np.array(read_rgb(train.images[source])), read_index(train.masks[source]))
        rows.append((image, overlay(image, read_index(val.masks[i])), answer, seen))
    comparison_sheet(("image", "truth", "retrieved", "asked most"), rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    if not 2 <= args.num_classes <= VOID:
        raise StageError(f"the number of classes must be 2 to {VOID}, got {args.num_classes}")
    files = [(args.gt / f"{name}.png", file) for name, file in maps_in(args.pred, args.set).items()]
    metrics, found = scored(files, args.num_classes, args.matching, args.average)
    return {"metrics": metrics, "classes": label_rows(found, class_names(args.num_classes)), "n": len(files)}


def _arguments(parser: argparse.ArgumentParser) -> None:
    usual = Args.model_validate({})
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 255 = void)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of square predicted ones with the same names")
    parser.add_argument("--num-classes", type=int, required=True, help="labels are 0..N-1")
    parser.add_argument("--matching", choices=("none", "hungarian"), default=usual.matching)
    parser.add_argument("--average", choices=("present", "all"), default=usual.average)
    add_list(parser)


if __name__ == "__main__":
    raise SystemExit(score_main("retrieval", "mIoU of retrieved label maps", _arguments, _score))
