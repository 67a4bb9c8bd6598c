"""Unsupervised semantic segmentation of pictures: patch features of a whole split are clustered, and clusters matched.

Two published protocols, whose figures must not be mixed:

- `leopart` (arXiv:2204.13101; NeCo, arXiv:2408.11054, evaluates TimeT by it): input 448, scaler and PCA to 50
  dimensions, k-means on patches, five seeds averaged, maps enlarged to 100x100 by the nearest cell, mean over all
  classes.
- `timet` (arXiv:2308.11796, what its training script monitors): input 224, features upsampled bilinearly to 112x112 and
  k-means on their pixels, one seed, mean over the classes that occur.

As many clusters as classes are matched one to one (Hungarian); more of them many to one, each to the class in which it
is most precise. Void (255) is left out.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from components.common.errors import StageError
from components.evaluate.cluster_maps import add_list, maps_in, read_clusters, write_folder
from components.evaluate.clustering import kept_notes
from components.evaluate.image_clusters import score_maps, seed_figures, seed_rows
from components.evaluate.images import read_index, read_rgb
from components.evaluate.layouts.voc import Segmentation, read_voc
from components.evaluate.matching import Match, Matched, label_rows
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, overlay, spread
from components.evaluate.sizes import fitted
from components.evaluate.stills import class_names, count_classes
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.clustering import Points


class Args(TaskParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "leopart": {
            "input_px": 448, "map_px": 100, "cluster_on": "patches", "clusters": [21, 300, 500], "niter": 100,
            "kmeans_seeds": [0, 1, 2, 3, 4], "average": "all",
        },
        "timet": {
            "input_px": 224, "map_px": 112, "cluster_on": "pixels", "clusters": [21], "niter": 50,
            "kmeans_seeds": [1], "average": "present",
        },
    }  # fmt: skip

    protocol: Literal["leopart", "timet"] = "leopart"
    val_set: str = Field("val", description="list under ImageSets/Segmentation")
    val_masks: str = Field("SegmentationClass", description="folder of its label maps")
    num_classes: int | None = Field(21, ge=2, le=255, description="null: as many as the label maps hold")
    input_px: int = Field(gt=0, description="pictures are resized to this square")
    map_px: int = Field(gt=0, description="side of the grid on which mIoU is taken")
    cluster_on: Literal["patches", "pixels"] = Field(description="pixels: of the features upsampled to map_px")
    clusters: list[int] = Field(min_length=1, description="numbers of clusters; equal to the classes: Hungarian")
    primary_k: int = Field(21, gt=0, description="the number of clusters whose mIoU ranks encoders")
    pca_dims: int = Field(50, gt=0)
    niter: int = Field(gt=0, description="k-means iterations")
    nredo: int = Field(5, gt=0, description="k-means starts")
    points_per_centroid: int = Field(256, gt=0, description="training points of k-means, faiss's own default")
    kmeans_seeds: list[int] = Field(min_length=1, description="figures are means over them")
    average: Literal["present", "all"] = Field(description="classes in the mean: those that occur, or every one")

    @model_validator(mode="after")
    def _primary_is_there(self) -> Args:
        if self.primary_k not in self.clusters:
            raise ValueError(f"primary_k {self.primary_k} is not among clusters {self.clusters}")
        return self


@task("voc_clustering", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Cluster the split by each number and seed, write the maps, match and score them."""
    args, size_notes = fitted(args, "input_px", encoder.patch_size)
    val = read_voc(benchmark, args.val_set, args.val_masks)
    n_classes = count_classes(val.masks, args.num_classes)
    grids = reduced_grids(encoder, val, args, job)
    found: dict[int, list[Matched]] = {k: [] for k in args.clusters}
    with job.progress(len(args.clusters) * len(args.kmeans_seeds), "clusterings") as progress:
        for k in args.clusters:
            for seed in args.kmeans_seeds:
                folder = job.cache / "clusters" / f"k{k}_seed{seed}"
                cluster(grids, val.names, k, seed, folder, args)
                found[k].append(score_maps(pairs(val, folder), n_classes, match_of(k, n_classes), args.average))
                progress.update(1, miou=found[k][-1].miou)
    shutil.copytree(job.cache / "clusters", job.details / "clusters")
    if args.pictures:
        draw(job.details / "clusters.png", val, job.details / "clusters", found, args)
    named = {f"k{k}": of_seeds for k, of_seeds in found.items()}
    return TaskResult(
        protocol=f"{args.protocol} clustering of {args.cluster_on}, input {args.input_px}, maps {args.map_px}, "
        f"mean over classes {args.average}, {len(args.kmeans_seeds)} seeds",
        metrics=seed_figures(named),
        primary=f"miou_k{args.primary_k}",
        data_variant=f"{args.val_set}: {len(val.names)} pictures, {n_classes} classes",
        rows=seed_rows(named, class_names(n_classes)),
        notes=[*size_notes, *kept_notes(encoder.dim, args.pca_dims)],
    )


def reduced_grids(encoder: Encoder, val: Segmentation, args: Args, job: Job) -> Points:
    """(pictures, h, w, d) features after scaler and PCA."""
    from components.evaluate.clustering import reduction
    from components.evaluate.square_features import square_patches

    bank = square_patches(encoder, val.images, args.input_px, "val", args, job)
    reduce = reduction((chunk.reshape(-1, chunk.shape[-1]) for chunk in bank.chunks(1)), args.pca_dims)
    return np.concatenate([reduce(chunk) for chunk in bank.chunks(1)])


def cluster(grids: Points, names: list[str], k: int, seed: int, folder: Path, args: Args) -> None:
    """Write folder/<name>.png, unless it is there."""
    from components.evaluate.clustering import KMeans, centroids_of, enlarged, nearest, upsampled

    if folder.is_dir():
        return
    side = args.map_px if args.cluster_on == "pixels" else grids.shape[1]

    def points(number: int) -> Points:
        grid = grids[[number]]
        return (upsampled(grid, side) if args.cluster_on == "pixels" else grid).reshape(side * side, -1)

    how = KMeans(args.niter, args.nredo, args.points_per_centroid)
    centroids = centroids_of(points, np.full(len(grids), side * side), k, how, seed)
    maps = (enlarged(nearest(points(i), centroids).reshape(side, side), args.map_px) for i in range(len(grids)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, zip(names, maps, strict=True))


def match_of(k: int, n_classes: int) -> Match:
    """One to one where there are as many clusters as classes."""
    return "hungarian" if k == n_classes else "greedy"


def pairs(val: Segmentation, folder: Path) -> list[tuple[Path, Path]]:
    """(label map, cluster map) of every picture."""
    return [(mask, folder / f"{name}.png") for name, mask in zip(val.names, val.masks, strict=True)]


def draw(file: Path, val: Segmentation, folder: Path, found: dict[int, list[Matched]], args: Args) -> None:
    """Pictures spread over the split: image, truth, and the matched clusters of each number, first seed."""
    rows = []
    for i in spread(len(val.names), args.pictures):
        image = np.array(read_rgb(val.images[i]))
        row = [image, overlay(image, read_index(val.masks[i]))]
        for k, of_seeds in found.items():
            clusters = read_clusters(folder / f"k{k}_seed{args.kmeans_seeds[0]}" / f"{val.names[i]}.png")
            row.append(overlay(image, of_seeds[0].label_of[clusters].astype(np.uint8)))
        rows.append(row)
    comparison_sheet(("image", "truth", *(f"K={k}" for k in found)), rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    if not 2 <= args.num_classes <= 255:
        raise StageError(f"the number of classes must be 2 to 255, got {args.num_classes}")
    maps = maps_in(args.pred, args.set)
    files = [(args.gt / f"{name}.png", file) for name, file in maps.items()]
    found = score_maps(files, args.num_classes, args.match, args.average)
    rows = label_rows(found, class_names(args.num_classes))
    return {"metrics": {"miou": found.miou}, "classes": rows, "n": len(files)}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="folder of true label maps (PNG, 255 = void)")
    parser.add_argument("--pred", type=Path, required=True, help="folder of square cluster maps with the same names")
    parser.add_argument("--num-classes", type=int, required=True, help="labels are 0..N-1")
    parser.add_argument("--match", choices=("hungarian", "greedy"), default="hungarian")
    parser.add_argument("--average", choices=("present", "all"), default="all")
    add_list(parser)


if __name__ == "__main__":
    raise SystemExit(score_main("voc_clustering", "mIoU of pictures' cluster maps", _arguments, _score))
