"""Linear classification on frozen image features, learning rates swept in one pass.

Protocol of DINO (arXiv:2104.14294, appendix) and iBOT (arXiv:2111.07832, appendix): class tokens of the last four
blocks through the final norm, concatenated (ViT-S), or the last class token beside the mean of its patches (ViT-B,
ViT-L); SGD, momentum 0.9, no weight decay, cosine to 0 by epochs, 100 epochs of random resized crops and mirror images;
one head for each of 45 rates, {1..9} x 10^{-4..0} at batch 256. iBOT ViT-S/16 77.9, DINO ViT-S/16 77.0 top-1.

What differs: the published scripts pick rate and epoch on the test pictures. Here a seeded part of the training
pictures is held out from training and chooses; the test pictures are looked at once, by two heads: `best` (the rate and
epoch that did best on the held-out part) and `last` (the best rate after the last epoch).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate import class_score
from components.evaluate.centre_crop import crop_features
from components.evaluate.layouts.imagenet import Classification, Labelled, read_imagenet
from components.evaluate.linear_params import LinearParams
from components.evaluate.score_cli import score_main
from components.evaluate.seeds import rng_of
from components.evaluate.sizes import input_side
from components.evaluate.task import Job, Row, TaskResult, task

if TYPE_CHECKING:
    from torch import Tensor

    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank
    from components.evaluate.linear_sweep import Sweep

SMALL_DIM = 384  # up to the width of ViT-S the published features are four class tokens


class Args(LinearParams):
    """The published constants."""


@task("linear", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train all heads on one part of the training pictures, choose on the other, test the chosen."""
    from components.evaluate.linear_data import split

    data = read_imagenet(benchmark)
    learnt, held = split(data.train, args)
    side, notes = input_side(args.crop_px, encoder.patch_size, args.fit)
    kind, forward = features_of(encoder, args)
    parts = {"test": data.held_out.files, "held_out": held.files}
    parts |= {"train": learnt.files} if args.train_views == "cached" else {}
    px = (max(args.resize_px, side), side)
    banks = {
        name: crop_features(files, px, forward, kind, job.cache / name, args, job) for name, files in parts.items()
    }
    sweep = train_heads(banks, learnt, held, len(data.classes), side, forward, args, job)
    ranked = {name: rank(w, b, banks["test"], data.held_out, args, job) for name, (w, b) in chosen_heads(sweep).items()}
    labels = data.held_out.labels
    write(ranked, sweep, data, benchmark, args, job)
    return TaskResult(
        protocol=f"linear, {kind}, {args.train_views} views, {len(args.lrs)} rates, {args.epochs} epochs",
        metrics=figures(ranked, labels),
        primary="top1_best",
        data_variant=f"{len(data.classes)} classes, {len(learnt.files)} train, {len(held.files)} held out of it, "
        f"{len(labels)} {data.held_out_name} pictures",
        rows=class_score.class_rows(labels, ranked["best"][:, 0], data.classes, "top1_best"),
        tables={"sweep": sweep_rows(sweep, args)},
        notes=[*notes, *choice_notes(sweep, args)],
    )


def figures(ranked: dict[str, NDArray[np.int64]], labels: list[int]) -> dict[str, float]:
    """Top-1 and top-5 of each head that was tested."""
    return {
        f"{figure}_{name}": value
        for name, ranking in ranked.items()
        for figure, value in class_score.accuracies(ranking, np.array(labels)).items()
    }


def write(
    ranked: dict[str, NDArray[np.int64]], sweep: Sweep, data: Classification, benchmark: Path, args: Args, job: Job
) -> None:
    """The predictions of each head that was tested, and the picture."""
    labels, names = data.held_out.labels, [file.relative_to(benchmark).as_posix() for file in data.held_out.files]
    for name, ranking in ranked.items():
        class_score.write_predictions(job.details / f"predictions_{name}.csv", names, labels, ranking, data.classes)
    if args.pictures:
        draw(job.details / "linear.png", sweep, ranked["best"][:, 0], labels, data.classes, args, job.name)


def train_heads(
    banks: dict[str, FeatureBank],
    learnt: Labelled,
    held: Labelled,
    n_classes: int,
    side: int,
    forward: Any,
    args: Args,
    job: Job,
) -> Sweep:
    """All heads, trained on fresh views or on the bank `train` where there is one."""
    from components.evaluate import linear_sweep
    from components.evaluate.linear_data import augmented_batches, cached_batches, labelled_chunks

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = rng_of(args.seed, 0, epoch).permutation(len(learnt.files))
        if "train" in banks:
            return cached_batches(banks["train"], learnt, order, args, job)
        return augmented_batches(learnt, order, epoch, side, forward, args, job)

    scale = args.batch_size / args.lr_batch if args.lr_batch else 1.0
    how = linear_sweep.Schedule(tuple(lr * scale for lr in args.lrs), args.epochs, args.momentum, args.weight_decay)
    dim = next(banks["held_out"].chunks(1)).shape[1]
    fresh = linear_sweep.start(dim, n_classes, how, args.seed, job.device)
    with job.progress(args.epochs, "epochs") as progress:
        return linear_sweep.fit(
            fresh,
            epoch_batches,
            lambda: labelled_chunks(banks["held_out"], held, args, job),
            how,
            job.cache / "sweep.safetensors",
            lambda loss, top1: progress.update(1, loss=loss, held_out_top1=top1),
        )


def features_of(encoder: Encoder, args: Args) -> tuple[str, Any]:
    """What the features are, in words, and the function from uint8 pictures (B, H, W, 3) to them (B, D)."""
    import torch

    from components.evaluate.features import normalised

    small, depth = encoder.dim <= SMALL_DIM, len(getattr(encoder.model, "blocks", "one"))
    n = min(args.last_blocks or (4 if small else 1), depth)
    mean = args.mean_patches if args.mean_patches is not None else not small

    def forward(pixels: Tensor) -> Tensor:
        taps = encoder.taps(normalised(pixels, encoder.mean, encoder.std), n)
        parts = [cls for cls, _ in taps] + ([taps[-1][1].mean((1, 2))] if mean else [])
        return torch.cat(parts, dim=1)

    return f"class tokens of {n} blocks" + (" and mean patch" if mean else ""), forward


def chosen_heads(sweep: Sweep) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights (D, C) and biases (C,) of the heads that are tested."""
    last = sweep.last
    return {"last": (sweep.weight[:, last], sweep.bias[last]), "best": (sweep.best_weight, sweep.best_bias)}


def rank(weight: Tensor, bias: Tensor, bank: FeatureBank, data: Labelled, args: Args, job: Job) -> NDArray[np.int64]:
    """(N, up to 5) classes of every picture by falling score, the lower class first where equal."""
    import torch

    from components.evaluate.linear_data import labelled_chunks

    depth = class_score.TOP if len(bias) > class_score.TOP else 1
    found = [
        (features @ weight + bias).sort(dim=1, descending=True, stable=True).indices[:, :depth].cpu()
        for features, _ in labelled_chunks(bank, data, args, job)
    ]
    return torch.cat(found).numpy()


def sweep_rows(sweep: Sweep, args: Args) -> list[Row]:
    """One row per rate: held-out top-1 after the last epoch, at its best epoch, and which that was (from 1)."""
    accuracy = sweep.accuracy.double().numpy()
    return [
        {
            "lr": lr,
            "held_out_top1_last": float(accuracy[-1, i]),
            "held_out_top1_best": float(accuracy[:, i].max()),
            "best_epoch": int(accuracy[:, i].argmax()) + 1,
        }
        for i, lr in enumerate(args.lrs)
    ]


def choice_notes(sweep: Sweep, args: Args) -> list[str]:
    """Which heads were tested."""
    epoch, head = sweep.best
    (best, last), base = (float(sweep.accuracy[e, h]) for e, h in ((epoch, head), (-1, sweep.last))), args.lrs
    return [
        f"best: lr {base[head]:g} after epoch {epoch + 1} of {args.epochs}, held-out top-1 {best:.4f}",
        f"last: lr {base[sweep.last]:g} after epoch {args.epochs}, held-out top-1 {last:.4f}",
    ]


def draw(
    file: Path,
    sweep: Sweep,
    predicted: NDArray[np.int64],
    labels: list[int],
    classes: list[str],
    args: Args,
    name: str,
) -> None:
    """Held-out accuracy of every rate by epoch, and the best head's confusion on the test pictures."""
    from components.evaluate.curves import draw_sweep

    counts = class_score.confusion(labels, predicted, sweep.bias.shape[1])
    draw_sweep(file, sweep.accuracy.double().numpy(), args.lrs, counts, classes, name)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    return class_score.score_predictions(args.predictions)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", type=Path, required=True, help="CSV: image, label, top1, top2, ...")


if __name__ == "__main__":
    raise SystemExit(score_main("linear", "top-1 and top-5 from predictions", _arguments, _score))
