"""Figures of cluster maps of videos against their masks, read from files; needs no model and no torch.

Scopes as in TimeT (arXiv:2308.11796, section 4): `frame` matches clusters and labels anew in each frame, `clip` in all
frames of a video, `dataset` once for all videos. Scores of frames and clips are averaged within batches of clips, and
then over batches, as the released code does; only a last batch that is not full makes that differ from a plain mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.cluster_maps import maps_in, read_clusters, square_side
from components.evaluate.layouts.video_masks import MaskedVideo
from components.evaluate.matching import VOID, Average, Counts, Match, contingency, label_rows, match

Row = dict[str, Any]
Scope = Literal["frame", "clip", "dataset"]
Key = tuple[str, str]  # video, frame


@dataclass(frozen=True)
class Rule:
    """How clusters are scored.

    Attributes:
        average: see matching.py.
        void: `ignore` leaves pixels of 255 out; `label` takes them for one more class where the scope is a frame or a
            clip, as the released code of TimeT does.
        uvos: all objects are one, foreground.
        batch_clips: clips whose scores are averaged first.
    """

    average: Average
    void: Literal["ignore", "label"]
    uvos: bool
    batch_clips: int

    def __post_init__(self) -> None:
        if self.void == "label" and self.average == "all":
            raise StageError("void as a label goes with the labels present, not with all of them")
        if self.batch_clips < 1:
            raise StageError(f"clips are averaged in batches of one at least, got {self.batch_clips}")


@dataclass
class Scores:
    """What a scope scored.

    Attributes:
        miou: the scope's figure.
        units: one row a frame, clip, or (`dataset`) label.
        per_video: mean of a video's units; empty for `dataset`.
        label_of: label of each cluster, by frame; for pictures.
    """

    miou: float = 0.0
    units: list[Row] = field(default_factory=list)
    per_video: dict[str, float] = field(default_factory=dict)
    label_of: dict[Key, NDArray[np.int64]] = field(default_factory=dict)


def scoped(labels: NDArray[np.uint8], rule: Rule) -> NDArray[np.uint8]:
    """Labels as the rule takes them: all objects become 1 with `uvos`, void stays 255."""
    return np.where((labels > 0) & (labels < VOID), np.uint8(1), labels) if rule.uvos else labels


def label_count(labels: NDArray[np.uint8], scope: Scope, rule: Rule) -> int:
    """Distinct labels in a scope, background included: K of the setting `gt`; at least one."""
    found = np.unique(scoped(labels, rule))
    return max(1, len(found) if counts_void(scope, rule) else len(found[found != VOID]))


def counts_void(scope: Scope, rule: Rule) -> bool:
    """Whether void pixels are scored."""
    return rule.void == "label" and scope != "dataset"


def score_videos(videos: Sequence[MaskedVideo], folder: Path, scope: Scope, how: Match, rule: Rule) -> Scores:
    """Score folder/<video>/<frame>.png; the frames that are there are the ones that were clustered.

    Raises:
        StageError: a video has no maps, a map is no square of numbers or of no masked frame, or all pixels are void.
    """
    units = {video.name: list(_units(video, folder / video.name, scope, rule)) for video in videos}
    if scope == "dataset":
        return _score_dataset(units, how, rule)
    n_labels = max(len(unit.table) for of_video in units.values() for unit in of_video)
    scores, means = Scores(), []
    for start in range(0, len(videos), rule.batch_clips):
        batch = [video.name for video in videos[start : start + rule.batch_clips]]
        values = [value for name in batch for value in _score_video(scores, name, units[name], n_labels, how, rule)]
        if values:
            means.append(float(np.mean(values)))
    if not means:
        raise StageError("nothing to score: every pixel is void", where=folder)
    scores.miou = float(np.mean(means))
    return scores


@dataclass(frozen=True)
class Unit:
    """What is matched at once: the frames and their common table, as large as its labels and clusters need."""

    stems: tuple[str, ...]
    table: Counts


def _units(video: MaskedVideo, folder: Path, scope: Scope, rule: Rule) -> Iterator[Unit]:
    """A unit a frame, or one for the video."""
    numbers = {file.stem: number for number, file in enumerate(video.masks)}
    stems: list[str] = []
    total = np.zeros((1, 1), np.int64)
    for stem, file in maps_in(folder).items():
        if stem not in numbers:
            raise StageError(f"a cluster map of a frame that has no mask in video {video.name}", where=file)
        clusters = read_clusters(file)
        labels = scoped(video.labels(numbers[stem], square_side(clusters, file)), rule)
        void = None if counts_void(scope, rule) else VOID
        n_labels = int(labels[labels != VOID].max(initial=0)) + 1 if void else VOID + 1
        table = contingency(labels, clusters, n_labels, int(clusters.max()) + 1, void)
        if scope == "frame":
            yield Unit((stem,), table)
        stems, total = [*stems, stem], added(total, table)
    if scope != "frame":
        yield Unit(tuple(stems), total)


def added(a: Counts, b: Counts) -> Counts:
    """Sum of two tables, the smaller one with empty rows and columns added."""
    total = np.zeros(np.maximum(a.shape, b.shape), np.int64)
    for table in (a, b):
        total[: table.shape[0], : table.shape[1]] += table
    return total


def _score_video(scores: Scores, name: str, units: list[Unit], n_labels: int, how: Match, rule: Rule) -> list[float]:
    """Append a video's rows; its values, one a unit that has a labelled pixel."""
    values = []
    for unit in units:
        table = added(unit.table, np.zeros((n_labels, 1), np.int64))
        found = match(table, how, rule.average)
        if found is None:
            continue
        values.append(found.miou)
        scores.label_of |= {(name, stem): found.label_of for stem in unit.stems}
        frame = unit.stems[0] if len(unit.stems) == 1 else ""
        clusters = int(np.count_nonzero(table.sum(0)))
        row = {"sequence": name, "frame": frame, "labels": len(found.labels), "clusters": clusters, "miou": found.miou}
        scores.units.append(row)
    if values:
        scores.per_video[name] = float(np.mean(values))
    return values


def _score_dataset(units: dict[str, list[Unit]], how: Match, rule: Rule) -> Scores:
    total = np.zeros((1, 1), np.int64)
    for of_video in units.values():
        for unit in of_video:
            total = added(total, unit.table)
    found = match(total, how, rule.average)
    if found is None:
        raise StageError("nothing to score: every pixel is void")
    frames = {(name, stem): found.label_of for name, of_video in units.items() for u in of_video for stem in u.stems}
    return Scores(found.miou, label_rows(found), {}, frames)
