"""k-NN classification on frozen image features.

Protocol of DINO (arXiv:2104.14294, section 4.1): the class token after the final norm, short side 256 (bicubic),
centre crop 224, cosine similarity, votes weighted by exp(similarity / 0.07), k in {10, 20, 100, 200}. Papers quote
k = 10 or 20. No training and no augmentation, so the figure depends on the encoder alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.common.errors import StageError
from components.evaluate import class_score, knn_score
from components.evaluate.centre_crop import centre_crop, crop_features
from components.evaluate.layouts.imagenet import Classification, Labelled, read_imagenet
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import neighbour_sheet, spread
from components.evaluate.sizes import input_side
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank


class Args(TaskParams):
    """The published constants."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {"chunk_rows", "neighbours_shown"}

    resize_px: int = Field(256, gt=0, description="short side after the resize")
    crop_px: int = Field(224, gt=0, description="side of the centre crop")
    k: list[int] = Field([10, 20, 100, 200], min_length=1, description="numbers of neighbours")
    primary_k: int = Field(20, gt=0, description="the k whose top-1 ranks encoders")
    temperature: float = Field(0.07, gt=0)
    feature: Literal["cls", "mean_patches"] = Field("cls", description="mean_patches suits losses on patches alone")
    chunk_rows: int = Field(16384, gt=0, description="training features compared at once")
    neighbours_shown: int = Field(7, gt=0, description="neighbours per query in the picture")


@task("knn", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Classify the held-out pictures by their nearest training pictures."""
    from components.evaluate.features import image_features, mean_features

    data = read_imagenet(benchmark)
    crop_px, size_notes = input_side(args.crop_px, encoder.patch_size, args.fit)
    px = args.resize_px, crop_px
    forward = image_features(encoder) if args.feature == "cls" else mean_features(encoder)
    train, held_out = (
        crop_features(split.files, px, forward, args.feature, job.cache / name, args, job)
        for name, split in (("train", data.train), ("held_out", data.held_out))
    )
    found = classify(train, held_out, data, args, job)
    names = [file.relative_to(benchmark).as_posix() for file in data.held_out.files]
    ranked = found.ranking.numpy()
    class_score.write_predictions(job.details / "predictions.csv", names, data.held_out.labels, ranked, data.classes)
    if args.pictures:
        picture(job.details / "neighbours.png", data, found, args)
    return TaskResult(
        protocol=f"dino knn, {args.resize_px}/{args.crop_px} px" + ("" if args.feature == "cls" else ", mean patches"),
        metrics=found.metrics,
        primary=f"top1_k{found.primary_k}",
        data_variant=f"{len(data.classes)} classes, {len(data.train.files)} train, "
        f"{len(data.held_out.files)} {data.held_out_name} pictures",
        rows=class_score.class_rows(data.held_out.labels, ranked[:, 0], data.classes, f"top1_k{found.primary_k}"),
        notes=[*size_notes, *found.notes],
    )


def classify(train: FeatureBank, held_out: FeatureBank, data: Classification, args: Args, job: Job) -> knn_score.Found:
    """The votes of the training features, read a chunk at a time, for every held-out one."""
    import torch

    queries = torch.from_numpy(np.concatenate(list(held_out.chunks(len(held_out)))))
    return knn_score.classify(
        queries.to(job.device),
        (torch.from_numpy(chunk) for chunk in train.chunks(args.chunk_rows)),
        torch.tensor(data.train.labels),
        torch.tensor(data.held_out.labels),
        knn_score.Votes(tuple(args.k), args.primary_k, args.temperature, args.chunk_rows),
        n_classes=len(data.classes),
    )


def picture(file: Path, data: Classification, found: knn_score.Found, args: Args) -> None:
    """Queries spread over the held-out split, each beside its nearest training pictures."""

    def shown(split: Labelled, i: int) -> tuple[NDArray[np.uint8], str]:
        return centre_crop(split.files[i], args.resize_px, args.crop_px), data.classes[split.labels[i]]

    n = min(args.neighbours_shown, found.neighbours.shape[1])
    rows = []
    for q in spread(len(data.held_out.files), args.pictures):
        nearest = zip(found.neighbours[q, :n].tolist(), found.similarities[q, :n].tolist(), strict=True)
        rows.append((*shown(data.held_out, q), [(*shown(data.train, i), float(s)) for i, s in nearest]))
    neighbour_sheet(rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    if (args.predictions is None) == (args.train is None or args.test is None):
        raise StageError("give either --predictions, or both --train and --test")
    if args.predictions is not None:
        return class_score.score_predictions(args.predictions)
    return knn_score.score_features(args.train, args.test, args.k, args.temperature)


def _arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Args.model_validate({})
    parser.add_argument("--predictions", type=Path, help="CSV: image, label, top1, top2, ...")
    parser.add_argument("--train", type=Path, help=".npz with `features` (N, D) and `labels` (N,)")
    parser.add_argument("--test", type=Path, help=".npz of the same form")
    parser.add_argument("--k", type=int, nargs="+", default=defaults.k)
    parser.add_argument("--temperature", type=float, default=defaults.temperature)


if __name__ == "__main__":
    raise SystemExit(score_main("knn", "top-1 and top-5 from files", _arguments, _score))
