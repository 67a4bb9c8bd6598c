"""Semantic segmentation by a linear probe on the frozen patch grid.

Protocol of TimeT (arXiv:2308.11796), after Leopart (arXiv:2204.13101): input 448, a 1x1 convolution on the patch
features after the final norm, upsampled to 100x100; cross entropy without void pixels; SGD 0.01, momentum 0.9, weight
decay 1e-4, rate x0.1 every 20 of 50 epochs, batches of 60 in the list's order, no augmentation; mIoU at 100x100 over
all classes, background included. Without augmentation an image's features never change, so they are computed once.

`miou_native` scores the written predictions, which have the pictures' own size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from components.common.errors import StageError
from components.evaluate import segmentation_score as seg
from components.evaluate.feature_store import Transform
from components.evaluate.images import read_index, read_rgb, size_of, write_index
from components.evaluate.layouts.voc import CLASSES, Segmentation, read_voc
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, overlay
from components.evaluate.sizes import Fit, input_side
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank


class Args(TaskParams):
    """The published constants."""

    train_set: str = Field("trainaug", description="list under ImageSets/Segmentation")
    train_masks: str = Field("SegmentationClassAug", description="folder of the train list's label maps")
    val_set: str = "val"
    val_masks: str = "SegmentationClass"
    num_classes: int | None = Field(21, ge=2, le=255, description="null: as many as the label maps hold")
    fit: Fit = Field("round", description="an input that is no multiple of the patch: round it down, or refuse it")
    input_px: int = Field(448, gt=0, description="pictures are resized to this square")
    label_px: int = Field(100, gt=0, description="side of the grid on which loss and mIoU are taken")
    epochs: int = Field(50, gt=0)
    batch_size: int = Field(60, gt=0)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    drop_epoch: int = Field(20, gt=0, description="the rate is multiplied by drop_factor every so many epochs")
    drop_factor: float = Field(0.1, gt=0)
    shuffle: bool = Field(False, description="the published script keeps the list's order")


@task("voc_linear", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train the probe on one split, predict the other, score it."""
    import torch

    from components.evaluate import probe
    from components.evaluate.features import extract, patch_features

    train = read_voc(benchmark, args.train_set, args.train_masks)
    val = read_voc(benchmark, args.val_set, args.val_masks)
    n_classes = count_classes([*train.masks, *val.masks], args.num_classes)
    side, size_notes = input_side(args.input_px, encoder.patch_size, args.fit)
    how = Transform("square (bilinear)", (side,), "patches")
    banks = [
        extract(s.images, lambda f: look(f, side), patch_features(encoder), job.cache / name, args, job, how)
        for name, s in (("train", train), ("val", val))
    ]
    labels = torch.from_numpy(np.stack([small_labels(file, args.label_px, n_classes) for file in train.masks]))

    def batch(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        features = torch.from_numpy(banks[0].rows(numbers)).to(job.device)
        return features, labels[numbers].long().to(job.device)

    head = probe.make_head(encoder.dim, n_classes, torch.Generator().manual_seed(args.seed)).to(job.device)
    schedule = probe.Schedule(**{name: getattr(args, name) for name in probe.Schedule.__dataclass_fields__})
    with job.progress(args.epochs, "epochs") as progress:
        for loss in probe.fit(head, len(train.names), batch, schedule, args.seed):
            progress.update(1, loss=loss)
    counts = predict(head, banks[1], val, n_classes, args, job)
    native = seg.score_pairs(
        [(mask, job.details / "predictions" / f"{n}.png") for n, mask in zip(val.names, val.masks, strict=True)],
        n_classes,
    )
    draw(job.details / "segmentation.png", val, job.details / "predictions", args.pictures)
    names = CLASSES if n_classes == len(CLASSES) else [str(i) for i in range(n_classes)]
    return TaskResult(
        protocol=f"timet linear, input {args.input_px}, labels {args.label_px}",
        metrics={**seg.figures(counts), **{f"{k}_native": v for k, v in seg.figures(native).items()}},
        primary="miou",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.names)} train, {len(val.names)} val pictures, "
        f"{n_classes} classes",
        rows=seg.class_rows(counts, names),
        notes=size_notes,
    )


def look(file: Path, side: int) -> NDArray[np.uint8]:
    """The whole picture as a square, its aspect ratio given up as the protocol does."""
    return np.array(read_rgb(file).resize((side, side), Image.Resampling.BILINEAR))


def small_labels(file: Path, side: int, n_classes: int) -> NDArray[np.uint8]:
    """The label map on the square grid of the loss (nearest); StageError for a label that is no class."""
    labels = read_index(file)
    seg.check_labels(labels[labels != seg.VOID], n_classes, file)
    return np.array(Image.fromarray(labels).resize((side, side), Image.Resampling.NEAREST))


def count_classes(masks: list[Path], told: int | None) -> int:
    """The number told, else one more than the largest label of all maps."""
    if told is not None:
        return told
    largest = 0
    for file in masks:
        labels = read_index(file)
        largest = max(largest, int(labels[labels != seg.VOID].max(initial=0)))
    if largest == 0:
        raise StageError("the label maps hold background only", where=masks[0].parent)
    return largest + 1


def predict(
    head: nn.Module, bank: FeatureBank, val: Segmentation, n_classes: int, args: Args, job: Job
) -> NDArray[np.int64]:
    """Write every picture's label map in its own size; return the confusion on the protocol's grid."""
    import torch

    from components.evaluate.probe import logits

    counts = np.zeros((n_classes, n_classes), np.int64)
    for number, (name, mask) in enumerate(zip(val.names, val.masks, strict=True)):
        features = torch.from_numpy(bank.rows(np.array([number]))).to(job.device)
        with torch.no_grad():
            small, native = (
                logits(head, features, size).argmax(1)[0].byte().cpu().numpy()
                for size in ((args.label_px, args.label_px), size_of(mask))
            )
        counts += seg.confusion(small_labels(mask, args.label_px, n_classes), small, n_classes)
        write_index(job.details / "predictions" / f"{name}.png", native)
    return counts


def draw(file: Path, val: Segmentation, predictions: Path, n: int) -> None:
    """Pictures spread over the split: image, truth, prediction."""
    rows = []
    for i in np.unique(np.linspace(0, len(val.names) - 1, n).astype(int)) if n else []:
        image = np.array(read_rgb(val.images[i]))
        truth, found = read_index(val.masks[i]), read_index(predictions / f"{val.names[i]}.png")
        rows.append((image, overlay(image, truth), overlay(image, found)))
    if rows:
        comparison_sheet(("image", "truth", "prediction"), rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    return seg.score_folders(args.gt, args.pred, args.num_classes)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 255 = void)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted ones with the same names")
    parser.add_argument("--num-classes", type=int, required=True, help="labels are 0..N-1")


if __name__ == "__main__":
    raise SystemExit(score_main("voc_linear", "mIoU of predicted label maps", _arguments, _score))
