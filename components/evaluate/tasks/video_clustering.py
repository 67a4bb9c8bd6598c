"""Unsupervised segmentation of videos: frozen patch features are clustered and the clusters matched to masks.

Protocol of TimeT (arXiv:2308.11796, section 4): four frames of a clip, drawn uniformly from all of it, at 224x224;
features standardised and reduced to 50 dimensions over a batch of 16 clips (over all of them for `dataset`), upsampled
bilinearly, and their pixels clustered by k-means. `gt` asks for as many clusters as there are labels and matches them
one to one (Hungarian); a number over-clusters, and each cluster goes to the label in which it is most precise. mIoU is
over the labels of the scope, background among them.

Void (255) is left out here. The released code scores it as one more class in frames and clips: `void: label`.
"""

from __future__ import annotations

import argparse
import shutil
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from components.evaluate.cluster_maps import read_clusters
from components.evaluate.clustering import kept_notes
from components.evaluate.images import read_rgb
from components.evaluate.layouts.video_masks import MaskedVideo, read_videos
from components.evaluate.matching import Match
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, overlay, spread
from components.evaluate.sizes import fitted
from components.evaluate.task import Job, Row, TaskParams, TaskResult, task
from components.evaluate.video_clusters import Rule, Scope, Scores, scoped, score_videos

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.video_kmeans import Setting

Clusters = Annotated[int, Field(ge=2, le=65536)] | Literal["gt"]


class Args(TaskParams):
    """The published constants."""

    layout: Literal["davis", "ytvos", "mose", "visor"] = "davis"
    split: str = Field("2017/val", description="list under ImageSets (davis, visor), or folder (ytvos, mose)")
    video_list: str | None = Field(None, description="file in the benchmark that names the videos to take")
    frames: int = Field(4, gt=0, description="frames of a clip, drawn uniformly; all of a shorter video")
    input_px: int = Field(224, gt=0, description="frames are resized to this square")
    eval_px: int = Field(224, gt=0, description="side of the maps scored in frames and clips")
    dataset_px: int = Field(112, gt=0, description="the same for the whole dataset")
    scopes: list[Scope] = Field(["frame", "clip", "dataset"], min_length=1, description="what is clustered at once")
    clusters: list[Clusters] = Field(
        ["gt", 10], min_length=1, description="gt: as many as labels; a number (10 in the released script)"
    )
    match_numbers: Match = Field("greedy", description="how a number of clusters is matched; gt always hungarian")
    primary_scope: Scope = Field("clip", description="the scope whose first setting ranks encoders")
    batch_clips: int = Field(16, gt=0, description="clips that share scaler and PCA, and are averaged first")
    pca_dims: int = Field(50, gt=0)
    niter: int = Field(50, gt=0, description="k-means iterations")
    nredo: int = Field(5, gt=0, description="k-means starts")
    points_per_centroid: int = Field(256, gt=0, description="training points of k-means, faiss's own default")
    kmeans_seed: int = Field(1, ge=0)
    average: Literal["present", "all"] = Field("present", description="labels in the scope (TimeT), or every label")
    void: Literal["ignore", "label"] = Field("ignore", description="label: 255 is a class, as TimeT's released code")
    uvos: bool = Field(False, description="all objects are one")

    @model_validator(mode="after")
    def _consistent(self) -> Args:
        if self.primary_scope not in self.scopes:
            raise ValueError(f"primary_scope '{self.primary_scope}' is not among the scopes")
        return self


@task("video_clustering", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Cluster every scope, write the maps, match and score them."""
    from components.evaluate.square_features import square_patches
    from components.evaluate.video_kmeans import cluster_videos

    args, size_notes = fitted(args, "input_px", encoder.patch_size)
    rule = rule_of(args)
    videos = [drawn(v, args) for v in read_videos(benchmark, args.layout, args.split, args.video_list)]
    files = [frame for video in videos for frame in video.frames]
    bank = square_patches(encoder, files, args.input_px, "features", args, job)
    settings = [(scope, k) for k in args.clusters for scope in args.scopes]
    scores: dict[str, Scores] = {}
    for scope, k in settings:
        folder = job.cache / "clusters" / name_of(scope, k)
        with job.progress(len(videos), f"clips, {name_of(scope, k)}") as progress:
            cluster_videos(videos, bank, setting_of(scope, k, args), folder, progress)
        scores[name_of(scope, k)] = score_videos(videos, folder, scope, match_of(k, args), rule)
    shutil.copytree(job.cache / "clusters", job.details / "clusters")
    if args.pictures:
        draw(job.details / "clusters.png", videos, job.details / "clusters", scores, args)
    return TaskResult(
        protocol=protocol_name(args),
        metrics={f"miou_{name}": found.miou for name, found in scores.items()},
        primary=f"miou_{name_of(args.primary_scope, args.clusters[0])}",
        data_variant=f"{args.layout} {args.split}: {len(videos)} videos, {len(files)} frames with masks",
        rows=video_rows(videos, scores),
        tables={name.replace("-", "_"): found.units for name, found in scores.items()},
        notes=[*size_notes, *kept_notes(encoder.dim, args.pca_dims)],
    )


def drawn(video: MaskedVideo, args: Args) -> MaskedVideo:
    """The frames that are taken: distinct, in order, the same whatever other videos there are."""
    rng = np.random.default_rng((args.seed, zlib.crc32(video.name.encode())))
    n = len(video.frames)
    chosen = np.sort(rng.choice(n, min(n, args.frames), replace=False))
    frames, masks = (tuple(files[i] for i in chosen) for files in (video.frames, video.masks))
    return replace(video, frames=frames, masks=masks)


def name_of(scope: Scope, k: Clusters) -> str:
    """A setting's name in figures and folders."""
    return f"{scope}_{k}" if k == "gt" else f"{scope}_k{k}"


def match_of(k: Clusters, args: Args) -> Match:
    return "hungarian" if k == "gt" else args.match_numbers


def rule_of(args: Args) -> Rule:
    return Rule(args.average, args.void, args.uvos, args.batch_clips)


def protocol_name(args: Args) -> str:
    """All that two figures must share."""
    words = [f"timet video clustering, input {args.input_px}, {args.frames} frames", f"mean over labels {args.average}"]
    words += ["void as a label"] if args.void == "label" else []
    words += ["objects as one"] if args.uvos else []
    return ", ".join(words)


def setting_of(scope: Scope, k: Clusters, args: Args) -> Setting:
    """The parameters of one clustering."""
    from components.evaluate.clustering import KMeans
    from components.evaluate.video_kmeans import Setting

    side = args.dataset_px if scope == "dataset" else args.eval_px
    how = KMeans(args.niter, args.nredo, args.points_per_centroid)
    return Setting(scope, k, side, args.batch_clips, args.pca_dims, how, args.kmeans_seed, rule_of(args))


def video_rows(videos: list[MaskedVideo], scores: dict[str, Scores]) -> list[Row]:
    """One row a video: its mean in each setting of frames and clips (null where all of it is void)."""
    settings = {name: found for name, found in scores.items() if found.per_video}
    return [
        {
            "sequence": video.name,
            "frames": len(video.frames),
            **{f"miou_{name}": found.per_video.get(video.name) for name, found in settings.items()},
        }
        for video in videos
    ]


def draw(file: Path, videos: list[MaskedVideo], folder: Path, scores: dict[str, Scores], args: Args) -> None:
    """Middle frames of videos spread over the benchmark: image, truth, and the first K of each scope, once matched."""
    rows = []
    settings = [name_of(scope, args.clusters[0]) for scope in args.scopes]
    for i in spread(len(videos), args.pictures):
        video, n = videos[i], len(videos[i].frames) // 2
        image, stem = np.array(read_rgb(video.frames[n])), video.frames[n].stem
        row = [image, overlay(image, scoped(video.labels(n, args.eval_px), rule_of(args)))]
        for name in settings:
            clusters = read_clusters(folder / name / video.name / f"{stem}.png")
            label_of = scores[name].label_of.get((video.name, stem), np.zeros(int(clusters.max()) + 1, np.int64))
            row.append(overlay(image, label_of[clusters].astype(np.uint8)))
        rows.append(row)
    comparison_sheet(("image", "truth", *settings), rows).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    videos = read_videos(args.gt, args.layout, args.split, args.video_list)
    rule = Rule(args.average, args.void, args.uvos, args.batch_clips)
    found = score_videos(videos, args.pred, args.scope, args.match, rule)
    return {"metrics": {"miou": found.miou}, "units": found.units, "rule": asdict(rule), "videos": len(videos)}


def _arguments(parser: argparse.ArgumentParser) -> None:
    usual = Args()
    parser.add_argument("--gt", type=Path, required=True, help="the benchmark")
    parser.add_argument("--pred", type=Path, required=True, help="folder of <video>/<frame>.png, cluster numbers")
    parser.add_argument("--layout", choices=("davis", "ytvos", "mose", "visor"), default=usual.layout)
    parser.add_argument("--split", default=usual.split)
    parser.add_argument("--video-list", help="file in the benchmark that names the videos to take")
    parser.add_argument("--scope", choices=("frame", "clip", "dataset"), default=usual.primary_scope)
    parser.add_argument("--match", choices=("hungarian", "greedy"), default="hungarian")
    parser.add_argument("--average", choices=("present", "all"), default=usual.average)
    parser.add_argument("--void", choices=("ignore", "label"), default=usual.void)
    parser.add_argument("--uvos", action="store_true", help="all objects are one")
    parser.add_argument("--batch-clips", type=int, default=usual.batch_clips)


if __name__ == "__main__":
    raise SystemExit(score_main("video_clustering", "mIoU of videos' cluster maps", _arguments, _score))
