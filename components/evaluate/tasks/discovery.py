"""Single object discovery: one box per picture from frozen features, no training, scored by CorLoc.

LOST (arXiv:2109.14279) on the keys of the last block: pictures at their own size, padded right and below with the mean
colour to whole patches, k_patches = 100, float32. CorLoc counts a picture whose box has an IoU of at least 0.5 with
any annotated box. Published sets: `trainval` of VOC 2007 and of VOC 2012 (DINO ViT-S/16: 61.9 and 64.0), and 19,817
pictures of COCO's train2014, named by a list (50.7). Crowds are no objects; difficult and truncated ones are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.common.errors import StageError
from components.common.outputs import write_text
from components.evaluate import corloc
from components.evaluate.box_pictures import draw_boxes, enlarged, heat, mark_cell
from components.evaluate.images import ahead, read_rgb
from components.evaluate.layouts.boxes import Layout, Picture, read_pictures
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import RIGHT, WRONG, comparison_sheet, spread
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.lost import Found

TRUTH = (250, 200, 40)  # colour of annotated boxes


class Args(TaskParams):
    """The published constants. `batch_images` pictures are kept at a time; each goes through the encoder alone."""

    layout: Layout = "voc"
    image_set: str = Field("trainval", description="list under ImageSets/Main (voc), or a split such as train2014")
    image_list: str | None = Field(None, description="coco: file below the benchmark that names the pictures taken")
    features: Literal["k", "q", "v", "out"] = Field("k", description="k, q, v of the last block, or its normed tokens")
    k_patches: int = Field(100, gt=0, description="patches of lowest degree that may join the seed")
    least_iou: float = Field(0.5, gt=0, le=1, description="a hit is an IoU of at least this")
    round_boxes: bool = Field(True, description="coco: annotated boxes are rounded to whole pixels, as published")
    drop_hard: bool = Field(False, description="voc: difficult and truncated objects do not count (VOC_all setup)")


@task("discovery", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """One box for every picture, and how many of them hit."""
    pictures = read_pictures(benchmark, args.layout, args.image_set, args.image_list, args.round_boxes, args.drop_hard)
    scored = [picture for picture in pictures if picture.boxes]
    found = dict(discover_all(encoder, scored, args, job))
    write_text(job.details / "predictions.json", json.dumps(found, indent=1) + "\n")
    rows = corloc.corloc_rows(found, {picture.name: picture.boxes for picture in scored}, args.least_iou)
    draw(job.details / "discovery.png", encoder, scored, args, job)
    n_objects = sum(len(picture.boxes) for picture in scored)
    left = len(pictures) - len(scored)
    return TaskResult(
        protocol=f"lost, {args.features} of the last block, k {args.k_patches}, own size",
        metrics=corloc.figures(rows),
        primary="corloc",
        data_variant=f"{args.layout} {args.image_set}: {len(scored)} pictures, {n_objects} objects",
        rows=[{**row, **box_columns(found[row["image"]])} for row in rows],
        notes=[f"{left} pictures without an object are left out"] if left else [],
    )


def box_columns(box: list[int]) -> dict[str, int]:
    """A box as columns of a table."""
    return dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))


def discover_all(encoder: Encoder, pictures: list[Picture], args: Args, job: Job) -> Iterator[tuple[str, list[int]]]:
    """(name, box) of every picture; what an earlier process found is read from the cache."""
    folder = job.cache / "boxes"
    starts = range(0, len(pictures), args.batch_images)
    parts = {start: folder / f"{start:08d}.json" for start in starts}
    todo = [p for start in starts if not parts[start].exists() for p in pictures[start : start + args.batch_images]]
    pixels = ahead(lambda picture: np.array(read_rgb(picture.file)), todo, args.workers)
    with job.progress(len(todo), "img") as progress:
        for start, part in parts.items():
            if not part.exists():
                own = pictures[start : start + args.batch_images]
                boxes = {}
                for picture in own:
                    boxes[picture.name] = list(look(encoder, next(pixels), args, job).box)
                    progress.update(1)
                write_text(part, json.dumps(boxes))
            yield from json.loads(part.read_text(encoding="utf-8")).items()


def look(encoder: Encoder, pixels: NDArray[np.uint8], args: Args, job: Job) -> Found:
    """LOST on one picture (H, W, 3)."""
    import torch

    from components.common.encoder import fit_to_patches
    from components.evaluate.features import normalised
    from components.evaluate.lost import discover

    image = normalised(torch.from_numpy(pixels)[None].to(job.device), encoder.mean, encoder.std)
    image = fit_to_patches(image, encoder.patch_size, "pad")
    features = encoder.patches(image) if args.features == "out" else encoder.keys(image, args.features)
    return discover(features[0], encoder.patch_size, pixels.shape[:2], args.k_patches)


def draw(file: Path, encoder: Encoder, pictures: list[Picture], args: Args, job: Job) -> None:
    """Pictures spread over the set: the objects, the found box with its seed, the degrees, the patches of the object.

    The box is green where it counts as a hit, red where not. Bright patches are like few others.
    """
    rows = []
    for i in spread(len(pictures), args.pictures):
        pixels = np.array(read_rgb(pictures[i].file))
        found = look(encoder, pixels, args, job)
        truth = np.array(pictures[i].boxes, float)
        hit = corloc.overlaps(found.box, truth).max() >= args.least_iou
        large, times = enlarged(pixels)
        patch, size = times * encoder.patch_size, (large.shape[0], large.shape[1])
        boxed = draw_boxes(large, [[times * side for side in found.box]], RIGHT if hit else WRONG)
        rows.append(
            (
                draw_boxes(large, (times * truth).tolist(), TRUTH),
                mark_cell(boxed, found.seed, patch, WRONG),
                heat(-found.degrees, patch, size),
                heat(found.mask, patch, size),
            )
        )
    if rows:
        comparison_sheet(("objects", "found box, seed", "low degree", "object's patches"), rows, height=240).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    given = Args.model_validate({})
    if not 0 < args.least_iou <= 1:
        raise StageError(f"the least IoU must lie above 0 and not above 1, got {args.least_iou}")
    pictures = read_pictures(args.gt, args.layout, args.set, args.list, given.round_boxes, args.drop_hard)
    truth = {picture.name: picture.boxes for picture in pictures}
    rows = corloc.corloc_rows(corloc.read_boxes(args.pred), truth, args.least_iou)
    return {"metrics": corloc.figures(rows), "images": rows, "n": len(rows)}


def _arguments(parser: argparse.ArgumentParser) -> None:
    given = Args.model_validate({})
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in VOC or COCO layout")
    parser.add_argument("--pred", type=Path, required=True, help='JSON: {"picture": [x0, y0, x1, y1], ...}')
    parser.add_argument("--layout", choices=("voc", "coco"), default=given.layout)
    parser.add_argument("--set", default=given.image_set, help="list under ImageSets/Main, or COCO's split")
    parser.add_argument("--list", help="coco: file below the benchmark that names the pictures taken")
    parser.add_argument("--least-iou", type=float, default=given.least_iou)
    parser.add_argument("--drop-hard", action="store_true", help="voc: without difficult and truncated objects")


if __name__ == "__main__":
    raise SystemExit(score_main("discovery", "CorLoc of predicted boxes", _arguments, _score))
