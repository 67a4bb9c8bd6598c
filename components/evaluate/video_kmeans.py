"""Cluster maps of videos: k-means anew in every frame or clip, or once for a whole benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.common.progress import Progress
from components.evaluate.cluster_maps import write_folder
from components.evaluate.clustering import KMeans, Points, centroids_of, nearest, reduction, upsampled
from components.evaluate.features import FeatureBank
from components.evaluate.layouts.video_masks import MaskedVideo
from components.evaluate.video_clusters import Rule, Scope, label_count


@dataclass(frozen=True)
class Setting:
    """One way to cluster.

    Attributes:
        scope: what is clustered at once.
        k: number of clusters; `gt` takes the number of labels in the scope.
        side: side of the maps, pixels.
        batch_clips: clips that share scaler and PCA, in frames and clips.
        pca_dims: dimensions kept.
        kmeans, seed: k-means and its seed.
        rule: which labels count.
    """

    scope: Scope
    k: int | Literal["gt"]
    side: int
    batch_clips: int
    pca_dims: int
    kmeans: KMeans
    seed: int
    rule: Rule

    def wanted(self, labels: NDArray[np.uint8]) -> int:
        """Clusters of a scope that has these labels."""
        return label_count(labels, self.scope, self.rule) if self.k == "gt" else self.k


def cluster_videos(
    videos: list[MaskedVideo], bank: FeatureBank, setting: Setting, folder: Path, progress: Progress
) -> None:
    """Write folder/<video>/<frame>.png for every video that has none yet.

    Args:
        videos: all their frames are clustered.
        bank: patch grids (h, w, D) of these frames, in the videos' order.
        folder: made where it is missing; each video's folder is whole once it is there.
    """
    edges = np.cumsum([0, *(len(video.frames) for video in videos)])
    step = len(videos) if setting.scope == "dataset" else setting.batch_clips
    work = whole_dataset if setting.scope == "dataset" else each_clip
    for start in range(0, len(videos), step):
        batch = videos[start : start + step]
        for video in batch:
            (folder / video.name).parent.mkdir(parents=True, exist_ok=True)  # a video's name may be a path
        if not all((folder / video.name).is_dir() for video in batch):
            work(batch, bank, np.arange(edges[start], edges[start + len(batch)]), setting, folder)
        progress.update(len(batch))


def each_clip(
    batch: list[MaskedVideo], bank: FeatureBank, numbers: NDArray[np.int64], setting: Setting, folder: Path
) -> None:
    """Scaler and PCA over the batch; k-means for each frame or clip."""
    grids = bank.rows(numbers)
    reduced = reduction((grid.reshape(-1, grid.shape[-1]) for grid in grids), setting.pca_dims)(grids)
    start = 0
    for video in batch:
        n = len(video.frames)
        points = upsampled(reduced[start : start + n], setting.side)
        start += n
        if (folder / video.name).is_dir():
            continue
        maps: dict[str, NDArray[np.int64]] = {}
        for part in [[i] for i in range(n)] if setting.scope == "frame" else [list(range(n))]:
            rows = points[part].reshape(-1, points.shape[-1])
            k = setting.wanted(labels_of(video, part, setting.side))
            found = nearest(rows, setting.kmeans.fit(rows, k, setting.seed)).reshape(len(part), setting.side, -1)
            maps |= {video.frames[i].stem: found[j] for j, i in enumerate(part)}
        write_folder(folder / video.name, maps.items())


def whole_dataset(
    videos: list[MaskedVideo], bank: FeatureBank, numbers: NDArray[np.int64], setting: Setting, folder: Path
) -> None:
    """Scaler, PCA and k-means over all clips, one frame of pixels in memory at a time."""
    reduce = reduction((chunk.reshape(-1, chunk.shape[-1]) for chunk in bank.chunks(1)), setting.pca_dims)
    side = setting.side

    def points(number: int) -> Points:
        large = upsampled(reduce(bank.rows(numbers[[number]])), side)
        return large.reshape(-1, large.shape[-1])

    labels = np.unique(np.concatenate([np.unique(labels_of(v, range(len(v.frames)), side)) for v in videos]))
    k = setting.wanted(labels)
    centroids = centroids_of(points, np.full(len(numbers), side**2), k, setting.kmeans, setting.seed)
    start = 0
    for video in videos:
        if not (folder / video.name).is_dir():
            stems = enumerate(frame.stem for frame in video.frames)
            maps = ((stem, nearest(points(start + i), centroids).reshape(side, side)) for i, stem in stems)
            write_folder(folder / video.name, maps)
        start += len(video.frames)


def labels_of(video: MaskedVideo, numbers: Sequence[int], side: int) -> NDArray[np.uint8]:
    """(n, side, side) labels of some masks."""
    return np.stack([video.labels(number, side) for number in numbers])
