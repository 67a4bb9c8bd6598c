"""What the Pascal VOC heads share: their constants, features of plain or random views, prediction and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from components.evaluate import segmentation_score as seg
from components.evaluate.crops import random_box
from components.evaluate.images import ahead, read_rgb, size_of, write_index
from components.evaluate.layouts.voc import Segmentation, read_voc
from components.evaluate.prediction_sheet import draw
from components.evaluate.seeds import rng_of
from components.evaluate.sizes import fitted
from components.evaluate.stills import checked_labels, class_names, count_classes, square_labels
from components.evaluate.task import Job, TaskParams, TaskResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank
    from components.evaluate.probe import Batches


class ProbeParams(TaskParams):
    """Constants of TimeT's and Leopart's heads; the tasks add their schedules."""

    train_set: str = Field("trainaug", description="list under ImageSets/Segmentation")
    train_masks: str = Field("SegmentationClassAug", description="folder of the train list's label maps")
    val_set: str = "val"
    val_masks: str = "SegmentationClass"
    num_classes: int | None = Field(21, ge=2, le=255, description="null: as many as the label maps hold")
    input_px: int = Field(448, gt=0, description="pictures are resized to this square")
    label_px: int = Field(100, gt=0, description="side of the grid on which loss and mIoU are taken")
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    drop_epoch: int = Field(20, gt=0, description="the rate is multiplied by drop_factor every so many epochs")
    drop_factor: float = Field(0.1, gt=0)
    shuffle: bool = Field(description="a new order of the pictures in every epoch")
    drop_last: bool = Field(description="leave out an epoch's last batch if it is not full")
    augment: bool = Field(description="random resized crops and mirror images; else features are computed once")
    crop_scale: tuple[float, float] = Field((0.8, 1.0), description="share of the area of a random crop")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="its width / height")
    flip: float = Field(0.5, ge=0, le=1)
    average: seg.Average = Field("occurring", description="classes in the mean: in truth or prediction, in truth, all")


def run_probe(
    encoder: Encoder,
    benchmark: Path,
    args: ProbeParams,
    job: Job,
    make_head: Callable[[int, int], nn.Module],
    protocol: str,
    head_px: int | None = None,
) -> TaskResult:
    """Train a head on one split, predict the other, score it.

    Args:
        make_head: (feature width, classes) -> the head, seeded, on the CPU.
        protocol: name of the published protocol.
        head_px: side of the grid that features are upsampled to before the head; null: the head works on the patches.
    """
    from components.evaluate.square_features import square_patches

    args, notes = fitted(args, "input_px", encoder.patch_size)
    train = read_voc(benchmark, args.train_set, args.train_masks)
    val = read_voc(benchmark, args.val_set, args.val_masks)
    n_classes = count_classes([*train.masks, *val.masks], args.num_classes)
    val_bank = square_patches(encoder, val.images, args.input_px, "val", args, job)
    head = make_head(encoder.dim, n_classes).to(job.device)
    fit_head(head, encoder, train, n_classes, args, job, head_px)
    counts = predict(head, val_bank, val, n_classes, args, job, head_px)
    names, predicted = class_names(n_classes), job.details / "predictions"
    native = seg.score_pairs(
        [(mask, predicted / f"{n}.png") for n, mask in zip(val.names, val.masks, strict=True)], n_classes
    )
    draw(job.details / "segmentation.png", val, predicted, args.pictures, dict(enumerate(names)))
    return TaskResult(
        protocol=f"{protocol}, input {args.input_px}, labels {args.label_px}"
        + ("" if args.average == "occurring" else f", mean over classes {args.average}"),
        metrics={
            **seg.figures(counts, args.average),
            **{f"{name}_native": value for name, value in seg.figures(native, args.average).items()},
        },
        primary="miou",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.names)} train, {len(val.names)} val pictures, "
        f"{n_classes} classes",
        rows=seg.class_rows(counts, names),
        notes=notes,
    )


def fit_head(
    head: nn.Module,
    encoder: Encoder,
    train: Segmentation,
    n_classes: int,
    args: ProbeParams,
    job: Job,
    head_px: int | None,
) -> None:
    """Train the head on fresh views, or on features computed once."""
    from components.evaluate import probe
    from components.evaluate.features import patch_features
    from components.evaluate.square_features import square_patches

    if args.augment:
        batches = augmented(train, n_classes, patch_features(encoder), args, job)
    else:
        bank = square_patches(encoder, train.images, args.input_px, "train", args, job)
        batches = plain(bank, train, n_classes, args, job)
    how = probe.Schedule(**{name: getattr(args, name) for name in probe.Schedule.__dataclass_fields__})
    work = probe.Work(job.cache / "head.safetensors", job.device, head_px)
    with job.progress(args.epochs, "epochs") as progress:
        for loss in probe.fit(head, len(train.names), batches, how, args.seed, work):
            progress.update(1, loss=loss)


def plain(bank: FeatureBank, train: Segmentation, n_classes: int, args: ProbeParams, job: Job) -> Batches:
    """Batches of features computed once, the whole picture as a square."""
    import torch

    labels = torch.from_numpy(np.stack([square_labels(file, args.label_px, n_classes) for file in train.masks]))

    def batches(_: int, parts: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in parts:
            features = torch.from_numpy(bank.rows(numbers)).to(job.device)
            yield features, labels[numbers].long().to(job.device)

    return batches


def augmented(
    train: Segmentation, n_classes: int, forward: Callable[[Tensor], Tensor], args: ProbeParams, job: Job
) -> Batches:
    """Batches of features of fresh views; a view depends on (seed, epoch, picture) alone."""
    import torch

    def batches(epoch: int, parts: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        def views(numbers: NDArray[np.int64]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
            return [view(train, i, n_classes, args, rng_of(args.seed, 1, epoch, i)) for i in numbers.tolist()]

        for batch in ahead(views, parts, args.workers):
            pixels, labels = (torch.from_numpy(np.stack(part)).to(job.device) for part in zip(*batch, strict=True))
            features = [forward(some).float() for some in pixels.split(args.batch_images)]
            yield torch.cat(features), labels.long()

    return batches


def view(
    train: Segmentation, number: int, n_classes: int, args: ProbeParams, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A random crop at the network's size, and its labels on the grid of the loss (nearest, by way of that size)."""
    image, labels = read_rgb(train.images[number]), Image.fromarray(checked_labels(train.masks[number], n_classes))
    top, left, height, width = random_box(image.height, image.width, args.crop_scale, args.crop_ratio, rng)
    box, side = (left, top, left + width, top + height), (args.input_px, args.input_px)
    pixels = np.array(image.crop(box).resize(side, Image.Resampling.BILINEAR))
    full = labels.crop(box).resize(side, Image.Resampling.NEAREST)
    if rng.random() < args.flip:
        pixels, full = np.ascontiguousarray(pixels[:, ::-1]), full.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pixels, np.array(full.resize((args.label_px, args.label_px), Image.Resampling.NEAREST))


def predict(
    head: nn.Module,
    bank: FeatureBank,
    val: Segmentation,
    n_classes: int,
    args: ProbeParams,
    job: Job,
    head_px: int | None,
) -> NDArray[np.int64]:
    """Write every picture's label map in its own size; return the confusion on the protocol's grid."""
    import torch

    from components.evaluate.probe import class_scores

    counts = np.zeros((n_classes, n_classes), np.int64)
    for number, (name, mask) in enumerate(zip(val.names, val.masks, strict=True)):
        features = torch.from_numpy(bank.rows(np.array([number]))).to(job.device)
        with torch.no_grad():
            small, native = (
                class_scores(head, features, size, head_px).argmax(1)[0].byte().cpu().numpy()
                for size in ((args.label_px, args.label_px), size_of(mask))
            )
        counts += seg.confusion(square_labels(mask, args.label_px, n_classes), small, n_classes)
        write_index(job.details / "predictions" / f"{name}.png", native)
    return counts
