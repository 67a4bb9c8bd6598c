"""What the ADE20K tasks share: their constants, training batches, loss, sliding test, and what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.evaluate import prediction_sheet, scene_score
from components.evaluate.images import ahead, read_rgb, write_index
from components.evaluate.layouts.ade20k import N_CLASSES, Scenes, class_names, read_scene
from components.evaluate.scene_views import Recipe, View, draw, scaled
from components.evaluate.seeds import rng_of
from components.evaluate.task import Job, Row, TaskParams, TaskResult

if TYPE_CHECKING:
    from torch import Tensor

    from components.common.encoder import Encoder
    from components.evaluate.finetune import Run


class SceneParams(TaskParams):
    """Constants of iBOT's ADE20K protocols (arXiv:2111.07832, appendix; mmsegmentation 0.12)."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {"checkpoint_every_s", "windows"}

    train_set: str = "training"
    val_set: str = "validation"
    num_classes: int = Field(N_CLASSES, ge=2, le=254)
    crop_px: int = Field(
        512, gt=0, description="side of training crops and test windows; rounded down to whole patches"
    )
    stride_px: int = Field(341, gt=0, description="distance of two test windows")
    short_px: int = Field(512, gt=0, description="pictures are scaled to the largest size with this short side ...")
    long_px: int = Field(2048, gt=0, description="... and this long side at most")
    ratio: tuple[float, float] = Field((0.5, 2.0), description="random factor of both in training")
    max_class_share: float = Field(0.75, gt=0, le=1, description="of one class in a training crop")
    flip: float = Field(0.5, ge=0, le=1)
    photometric: bool = True
    brightness: float = Field(32, ge=0, description="grey levels")
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = Field(18, ge=0, description="of 180 steps around the circle")
    taps: Literal["spread", "last"] = Field("spread", description="blocks 3, 5, 7, 11 of 12 (from 0), or the last four")
    norm_taps: bool = Field(True, description="the final norm on every tap (out_with_norm)")
    iterations: int = Field(160_000, gt=0)
    batch_size: int = Field(16, gt=0, description="pictures per iteration")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.05, ge=0)
    warmup_iterations: int = Field(1500, ge=0)
    warmup_ratio: float = Field(1e-6, gt=0, le=1)
    power: float = Field(1.0, gt=0, description="of the polynomial schedule")
    min_lr: float = Field(0.0, ge=0)
    mean_over_void: bool = Field(True, description="void pixels count in the loss's mean, as in mmsegmentation 0.12")
    half: bool = Field(True, description="bfloat16 on a GPU, where the published runs use float16; no effect on a CPU")
    checkpoint_every_s: float = Field(300, ge=0)
    windows: int = Field(8, gt=0, description="test windows per forward pass")

    def recipe(self, crop_px: int) -> Recipe:
        """The constants of the training views, for crops of this side."""
        given = {f.name: getattr(self, f.name) for f in fields(Recipe)}
        return Recipe(**{**given, "crop_px": crop_px})

    def run(self, lr: float, checkpoint: Path) -> Run:
        """How the training loop works."""
        from components.evaluate.finetune import Run, Schedule

        given = {f.name: getattr(self, f.name) for f in fields(Schedule) if f.name != "lr"}
        return Run(Schedule(lr=lr, **given), self.betas, self.seed, checkpoint, self.checkpoint_every_s)


Scores = Callable[["Tensor"], "Tensor"]  # normalised windows (B, 3, S, S) -> class scores (B, C, S, S)


@dataclass(frozen=True)
class Look:
    """How pictures become tensors: the encoder's mean and std, RGB in 0..1, and the device."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    @classmethod
    def of(cls, encoder: Encoder, job: Job) -> Look:
        return cls(encoder.mean, encoder.std, job.device)


def batches(scenes: Scenes, args: SceneParams, crop_px: int, look: Look, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, S, S), 0 where padded, and labels (B, S, S), from iteration `first` on.

    Pictures are taken in one random order after the other; a view depends on (seed, its place in them) alone.
    """
    import torch

    from components.evaluate.features import normalised

    how = args.recipe(crop_px)

    def views(step: int) -> list[View]:
        return [_view(scenes, args, how, step * args.batch_size + i) for i in range(args.batch_size)]

    for batch in ahead(views, range(first, args.iterations), args.workers):
        pixels, labels = (
            torch.from_numpy(np.stack(part)) for part in zip(*((v.pixels, v.labels) for v in batch), strict=True)
        )
        images = normalised(pixels.to(look.device), look.mean, look.std)
        for image, view in zip(images, batch, strict=True):
            image[:, view.height :], image[:, :, view.width :] = 0, 0  # the mean colour: padded after normalisation
        yield images, labels.long().to(look.device)


def _view(scenes: Scenes, args: SceneParams, how: Recipe, place: int) -> View:
    n = len(scenes.names)
    number = _order(args.seed, place // n, n)[place % n]
    image = np.array(read_rgb(scenes.images[number]))
    return draw(image, read_scene(scenes.masks[number], args.num_classes), how, rng_of(args.seed, 1, place))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return rng_of(seed, 0, epoch).permutation(n)


def pixel_loss(scores: Tensor, labels: Tensor, mean_over_void: bool) -> Tensor:
    """Cross entropy of scores (B, C, h, w), brought to the labels' size, against labels (B, H, W), 255 void.

    `mean_over_void`: void pixels add nothing but count in the mean, as in mmsegmentation 0.12; else they are left out.
    """
    import torch.nn.functional as F

    from components.evaluate.resampling import upsample

    full = upsample(scores.float(), (labels.shape[1], labels.shape[2]))
    total = F.cross_entropy(full, labels, ignore_index=255, reduction="none").sum()
    return total / (labels.numel() if mean_over_void else (labels != 255).sum().clamp_min(1))


def segment(file: Path, scores: Scores, args: SceneParams, crop_px: int, look: Look) -> NDArray[np.uint8]:
    """Classes (H, W) from 0 of a picture in its own size, by sliding windows over the scaled picture."""
    import cv2
    import torch

    from components.evaluate.features import normalised
    from components.evaluate.resampling import upsampled_argmax
    from components.evaluate.sliding import slide

    pixels = np.array(read_rgb(file))
    height, width = scaled(pixels.shape[0], pixels.shape[1], args.short_px, args.long_px)
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    image = normalised(torch.from_numpy(small)[None].to(look.device), look.mean, look.std)[0]
    with torch.inference_mode():
        maps = slide(image, scores, crop_px, args.stride_px, args.windows)
        return upsampled_argmax(maps, (pixels.shape[0], pixels.shape[1])).byte().cpu().numpy()


def predict(
    scenes: Scenes, folder: Path, scores: Scores, args: SceneParams, crop_px: int, look: Look, job: Job
) -> None:
    """Write every picture's label map, classes from 1, those that are there already excepted."""
    todo = [(n, f) for n, f in zip(scenes.names, scenes.images, strict=True) if not (folder / f"{n}.png").exists()]
    with job.progress(len(todo), "img") as progress:
        for name, file in todo:
            found = segment(file, scores, args, crop_px, look)
            partial = folder / f".{name}.partial"
            write_index(partial, (found + 1).astype(np.uint8))
            partial.rename(folder / f"{name}.png")
            progress.update(1)


def result(
    benchmark: Path, train: Scenes, val: Scenes, predicted: Path, protocol: str, args: SceneParams, job: Job
) -> TaskResult:
    """Score the written maps, copy them to the details, draw some."""
    import shutil

    counts = scene_score.score_maps(pairs(val, predicted), args.num_classes)
    shutil.copytree(predicted, job.details / "predictions")
    names = class_names(benchmark, args.num_classes)
    prediction_sheet.draw(job.details / "scenes.png", val, predicted, args.pictures, dict(enumerate(names, start=1)))
    return TaskResult(
        protocol=protocol,
        metrics=scene_score.figures(counts),
        primary="miou",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.names)} train, {len(val.names)} val pictures, "
        f"{args.num_classes} classes, {int((counts.sum(1) > 0).sum())} of them in val",
        rows=scene_score.class_rows(counts, names),
    )


def pairs(scenes: Scenes, predicted: Path) -> list[tuple[Path, Path]]:
    """(true, predicted) label maps."""
    return [(mask, predicted / f"{name}.png") for name, mask in zip(scenes.names, scenes.masks, strict=True)]


def loss_rows(losses: list[float], rates: Callable[[int], float], n: int = 50) -> list[Row]:
    """Mean loss of up to `n` equal spans of the training, with the rate at each span's end."""
    ends = np.unique(np.linspace(0, len(losses), min(n, len(losses)) + 1).astype(int))
    return [
        {"iteration": b, "loss": float(np.mean(losses[a:b])), "lr": rates(b - 1)} for a, b in pairwise(ends.tolist())
    ]


def columns(rows: list[Row], x: str = "iteration", y: str = "loss") -> tuple[list[float], list[float]]:
    """Two columns of a table, to draw one by the other."""
    return [row[x] for row in rows], [row[y] for row in rows]
