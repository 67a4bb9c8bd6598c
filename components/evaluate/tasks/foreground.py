"""Foreground of pictures from clusters and attention, without labels but for one threshold: CBFE.

Cluster-based foreground extraction of Leopart (arXiv:2204.13101, section 3.3) as two codes evaluate it, input 448, maps
of 100x100, attention mask of 65 % of the class token's attention in the last block (blurred, without specks):

- `timet` (arXiv:2308.11796): tuned on trainaug; scaler, PCA and k-means (K = 300) anew in each split, features enlarged
  to the map by the nearest cell before they are clustered.
- `leopart`: tuned on train; scaler, PCA and spherical k-means (K = 200) over both splits together, on patches.

The threshold is tuned on the training split's true foreground. Figures are means over pictures: IoU, and boundary F at
16 of the map's pixels. What is in the foreground is then clustered into as many segments as there are classes and
matched to them (`miou_segments`, see cbfe_segments.py). Void (255) counts as foreground in both codes. TimeT's released
boundary F compares with the background instead of the foreground; `boundary_of: foreground` does not.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.common.errors import StageError
from components.evaluate import cbfe
from components.evaluate.cbfe import Mask
from components.evaluate.cluster_maps import add_list, maps_in, read_clusters
from components.evaluate.foreground_score import Rule, figures, score_files, true_foreground
from components.evaluate.image_clusters import score_maps, seed_figures, seed_rows
from components.evaluate.images import read_rgb, write_index
from components.evaluate.layouts.voc import Segmentation, read_voc
from components.evaluate.matching import Matched
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, overlay, spread
from components.evaluate.sizes import fitted
from components.evaluate.stills import class_names, count_classes
from components.evaluate.task import Job, Row, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from torch import Tensor

    from components.common.encoder import Encoder
    from components.evaluate.features import FeatureBank


class Args(TaskParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "timet": {
            "train_set": "trainaug", "train_masks": "SegmentationClassAug", "clusters": 300, "niter": 50,
            "together": False, "spherical": False, "cluster_on": "pixels",
            "segments": "zeroed", "segment_seeds": [1], "average": "present", "boundary_of": "background",
        },
        "leopart": {
            "train_set": "train", "train_masks": "SegmentationClass", "clusters": 200, "niter": 100,
            "together": True, "spherical": True, "cluster_on": "patches",
            "segments": "foreground", "segment_seeds": [0, 1, 2, 3, 4], "average": "all", "boundary_of": "foreground",
        },
    }  # fmt: skip

    protocol: Literal["timet", "leopart"] = "timet"
    train_set: str = Field(description="list on which the threshold is tuned")
    train_masks: str = Field(description="folder of its label maps")
    val_set: str = "val"
    val_masks: str = "SegmentationClass"
    input_px: int = Field(448, gt=0, description="pictures are resized to this square")
    map_px: int = Field(100, gt=0, description="side of the maps that are compared")
    clusters: int = Field(ge=2, description="number of clusters")
    together: bool = Field(description="both splits share scaler, PCA and clusters")
    spherical: bool = Field(description="k-means by direction")
    cluster_on: Literal["patches", "pixels"] = Field(
        description="pixels: a patch trains k-means by its size on the map"
    )
    pca_dims: int = Field(50, gt=0)
    niter: int = Field(gt=0, description="k-means iterations")
    nredo: int = Field(5, gt=0, description="k-means starts")
    points_per_centroid: int = Field(256, gt=0, description="training points of k-means, faiss's own default")
    kmeans_seed: int = Field(1, ge=0)
    attention_mass: float = Field(0.65, gt=0, lt=1, description="share of the attention in the noisy foreground")
    void: Literal["foreground", "background"] = Field("foreground", description="what 255 is in the truth")
    tolerance_px: float = Field(16, gt=0, description="contours nearer than this match")
    boundary_of: Literal["foreground", "background"] = Field(description="whose contour is the true one")
    segments: Literal["none", "zeroed", "foreground"] = Field(
        description="what of the foreground is clustered, and how"
    )
    num_classes: int | None = Field(21, ge=2, le=255, description="clusters of the segments; null: as the label maps")
    segment_seeds: list[int] = Field(min_length=1, description="of the segments' k-means; figures are means over them")
    average: Literal["present", "all"] = Field(description="classes in the segments' mean: those that occur, or all")


@dataclass(frozen=True)
class Split:
    """One split: its files, its patch grids and attention masks (n, h, w)."""

    data: Segmentation
    bank: FeatureBank
    attention: Mask


@task("foreground", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Tune the threshold on one split, extract the other's foreground, score it."""
    args, size_notes = fitted(args, "input_px", encoder.patch_size)
    train, val = (
        read_split(encoder, read_voc(benchmark, *which), name, args, job)
        for name, *which in (("train", args.train_set, args.train_masks), ("val", args.val_set, args.val_masks))
    )
    train_clusters, val_clusters = cluster(train, val, args, job)
    train_tables, val_tables = (
        cbfe.tabulate(maps(*pair, args), args.clusters) for pair in ((train, train_clusters), (val, val_clusters))
    )
    threshold = cbfe.best_threshold(train_tables)
    chosen = cbfe.precisions(val_tables) >= threshold
    masks = np.stack([chosen[clusters] for clusters, _, _ in maps(val, val_clusters, args)])
    rows = write_masks(val.data, masks, args, job)
    segments, classes = segment(val, masks, args, job)
    if args.pictures:
        draw(job.details / "foreground.png", val, masks, segments, args, job)
    train_iou = float(cbfe.ious(train_tables, cbfe.precisions(train_tables) >= threshold).mean())
    return TaskResult(
        protocol=protocol_name(args),
        metrics={**figures(rows), "threshold": threshold, "iou_train": train_iou, **seed_figures(segments)},
        primary="iou",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.bank)} train, {len(val.bank)} val pictures",
        rows=rows,
        tables={"segments": classes} if classes else {},
        notes=[*size_notes, "the threshold is tuned on the training split's true foreground"]
        + ([] if chosen.any() else ["no cluster is precise enough: all is background"]),
    )


def write_masks(data: Segmentation, masks: Mask, args: Args, job: Job) -> list[Row]:
    """Write the predicted foreground of every picture, and score it."""
    folder = job.details / "predictions"
    for name, mask in zip(data.names, masks, strict=True):
        write_index(folder / f"{name}.png", mask.astype(np.uint8))
    files = [(name, mask, folder / f"{name}.png") for name, mask in zip(data.names, data.masks, strict=True)]
    return score_files(files, Rule(args.void, args.tolerance_px, args.boundary_of))


def segment(val: Split, masks: Mask, args: Args, job: Job) -> tuple[dict[str, list[Matched]], list[Row]]:
    """The foreground clustered by each seed and matched to the classes, and a row a class; both empty where off."""
    from components.evaluate.cbfe_segments import Segmenter
    from components.evaluate.clustering import KMeans

    if args.segments == "none":
        return {}, []
    n_classes = count_classes(val.data.masks, args.num_classes)
    how = KMeans(args.niter, args.nredo, args.points_per_centroid)
    segmenter = Segmenter(val.bank, masks, args.segments, n_classes, how, args.pca_dims)
    found = []
    for seed in args.segment_seeds:
        folder = segmenter.write(val.data.names, seed, job.cache / "segments")
        files = [(mask, folder / f"{n}.png") for n, mask in zip(val.data.names, val.data.masks, strict=True)]
        found.append(score_maps(files, n_classes, "hungarian", args.average))
    shutil.copytree(job.cache / "segments", job.details / "segments")
    return {"segments": found}, seed_rows({"segments": found}, class_names(n_classes))


def protocol_name(args: Args) -> str:
    """All that two figures must share."""
    words = [f"{args.protocol} cbfe, {args.clusters} clusters, input {args.input_px}, maps {args.map_px}"]
    words += [f"void as {args.void}", f"contour of the true {args.boundary_of}"]
    return ", ".join(words)


def read_split(encoder: Encoder, data: Segmentation, name: str, args: Args, job: Job) -> Split:
    """Features and attention masks of all pictures."""
    from components.common.foreground import foreground
    from components.evaluate.features import normalised
    from components.evaluate.square_features import square_patches

    def attend(pixels: Tensor) -> Tensor:
        seen = encoder.attention(normalised(pixels, encoder.mean, encoder.std))
        grid = (seen.shape[-2], seen.shape[-1])
        return foreground(seen.flatten(-2), grid, mass=args.attention_mass).unflatten(-1, grid)

    side = args.input_px // encoder.patch_size
    if side < 4:
        what = f"a grid of {side}x{side} patches is too small for an attention mask"
        raise StageError(what, do="raise input_px to 4 patches or more")
    bank = square_patches(encoder, data.images, args.input_px, name, args, job)
    taken = f"foreground by {args.attention_mass} of the attention"
    masks = square_patches(encoder, data.images, args.input_px, f"{name}-attention", args, job, attend, taken)
    return Split(data, bank, np.concatenate(list(masks.chunks(len(masks)))) > 0)


def cluster(train: Split, val: Split, args: Args, job: Job) -> list[NDArray[np.int64]]:
    """Clusters (n, h, w) of both splits."""
    from components.evaluate.bank_clusters import cluster_banks
    from components.evaluate.clustering import KMeans, enlarged
    from components.evaluate.features import save

    grid = train.attention.shape[1:]
    cells = np.arange(grid[0] * grid[1]).reshape(grid)
    cells = enlarged(cells, args.map_px) if args.cluster_on == "pixels" else cells
    how = KMeans(args.niter, args.nredo, args.points_per_centroid, args.spherical)
    groups = {"both": [train, val]} if args.together else {"train": [train], "val": [val]}
    found: list[NDArray[np.int64]] = []
    for name, group in groups.items():
        file = job.cache / f"clusters-{name}.npy"
        if not file.exists():
            banks = [split.bank for split in group]
            save(file, cluster_banks(banks, cells, args.clusters, how, args.pca_dims, args.kmeans_seed))
        found += np.split(np.load(file, allow_pickle=False), [len(group[0].bank)])[: len(group)]
    return found


def maps(split: Split, clusters: NDArray[np.int64], args: Args) -> Iterator[tuple[NDArray[np.int64], Mask, Mask]]:
    """(clusters, attention, true foreground) of each picture, on the map."""
    from components.evaluate.clustering import enlarged

    for grid, attention, mask in zip(clusters, split.attention, split.data.masks, strict=True):
        truth = true_foreground(mask, args.map_px, args.void)
        yield enlarged(grid, args.map_px), enlarged(attention, args.map_px), truth


def draw(file: Path, val: Split, masks: Mask, segments: dict[str, list[Matched]], args: Args, job: Job) -> None:
    """Pictures spread over the split: image, true foreground, what attention sees, the result, its segments matched."""
    rows = []
    for i in spread(len(val.data.names), args.pictures):
        image = np.array(read_rgb(val.data.images[i]))
        shown = (true_foreground(val.data.masks[i], args.map_px, args.void), val.attention[i], masks[i])
        row = [image, *(overlay(image, mask.astype(np.uint8)) for mask in shown)]
        for found in segments.values():
            maps = job.details / "segments" / f"seed{args.segment_seeds[0]}" / f"{val.data.names[i]}.png"
            row.append(overlay(image, found[0].label_of[read_clusters(maps)].astype(np.uint8)))
        rows.append(row)
    comparison_sheet(("image", "truth", "attention", "foreground", *segments), rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    if not 0 < args.tolerance_px < math.inf:
        raise StageError(f"the tolerance must be above 0 px, got {args.tolerance_px}")
    pairs = [(name, args.gt / f"{name}.png", file) for name, file in maps_in(args.pred, args.set).items()]
    rows = score_files(pairs, Rule(args.void, args.tolerance_px, args.boundary_of))
    return {"metrics": figures(rows), "pictures": rows}


def _arguments(parser: argparse.ArgumentParser) -> None:
    usual = Args.model_validate({})
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 255 = void)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of square masks (PNG), foreground is not 0")
    parser.add_argument("--void", choices=("foreground", "background"), default=usual.void)
    parser.add_argument("--tolerance-px", type=float, default=usual.tolerance_px)
    parser.add_argument("--boundary-of", choices=("foreground", "background"), default=usual.boundary_of)
    add_list(parser)


if __name__ == "__main__":
    raise SystemExit(score_main("foreground", "IoU and boundary F of foreground masks", _arguments, _score))
