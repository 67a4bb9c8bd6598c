"""DAVIS unsupervised: proposals carry ids of their own, and each object is judged by the one that is matched to it.

Caelles et al., "The 2019 DAVIS challenge on VOS: unsupervised multi-object segmentation" (arXiv:1905.00737), as the
official DAVIS-2017 evaluation computes it: objects are those of the first true mask; every frame counts, the first and
the last too; void pixels are removed from truth and prediction; at most 20 proposals; one-to-one matching by the
Hungarian method on (mean J + mean F) / 2 over the clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate import bits
from components.evaluate.davis_metrics import VOID, Mask, boundary_f, object_count, tolerance_px
from components.evaluate.davis_score import Decay, Scores, columns, mask_files, read_pair
from components.evaluate.images import folders_in

MAX_PROPOSALS = 20

Table = NDArray[np.float64]


def score_unsupervised(
    truth: Path,
    predicted: Path,
    names: Iterable[str] | None = None,
    max_proposals: int = MAX_PROPOSALS,
    decay: Decay = "whole",
) -> Scores:
    """Score `predicted/<sequence>/*.png` (pixel value: proposal) against `truth/<sequence>/*.png`.

    Raises:
        StageError: a sequence or mask is missing, sizes differ, or there are too many proposals.
    """
    scores = Scores()
    for name in names if names is not None else [folder.name for folder in folders_in(truth)]:
        _score_sequence(scores, name, truth / name, predicted / name, max_proposals, decay)
    if not scores.objects:
        raise StageError("nothing to score: no sequence has an object in its first mask", where=truth)
    return scores


def match(values: Table) -> list[int]:
    """Proposal of each object for (2, proposals, objects, frames) values of J and F, proposals at least as many."""
    from scipy.optimize import linear_sum_assignment

    j, f = values.mean(3)  # summed as the official code does: the last bit decides between equal matchings
    proposals, objects = linear_sum_assignment(-(j + f) / 2)
    return [int(p) for _, p in sorted(zip(objects, proposals, strict=True))]


def pair_scores(truth: Mask, predicted: Mask, n_objects: int, n_proposals: int) -> Table:
    """J and F (2, proposals, objects) of one frame, of every proposal against every object; 255 in `truth` is void."""
    void = truth == VOID
    truth, predicted = np.where(void, 0, truth), np.where(void, 0, predicted)
    out = np.empty((2, n_proposals, n_objects))
    out[0] = _jaccards(truth, predicted, n_objects, n_proposals)
    radius = tolerance_px(*truth.shape)
    (edges, near), (found, near_found) = (
        _edges(m, n, radius) for m, n in ((truth, n_objects), (predicted, n_proposals))
    )
    lengths, found_lengths = bits.count(edges), bits.count(found)
    for i in range(n_objects):
        met, found_met = bits.count(edges[i] & near_found), bits.count(found & near[i])
        for p in range(n_proposals):
            out[1, p, i] = boundary_f(*map(int, (lengths[i], found_lengths[p], met[p], found_met[p])))
    return out


def _jaccards(truth: Mask, predicted: Mask, n_objects: int, n_proposals: int) -> Table:
    counts = np.bincount(truth.astype(np.int64).ravel() * 256 + predicted.ravel(), minlength=256**2).reshape(256, 256)
    both = counts[1 : n_objects + 1, 1 : n_proposals + 1]
    either = counts.sum(1)[1 : n_objects + 1, None] + counts.sum(0)[None, 1 : n_proposals + 1] - both
    return np.divide(both, either, out=np.ones(both.shape), where=either > 0).T


def _edges(mask: Mask, n: int, radius: int) -> tuple[bits.Words, bits.Words]:
    """Packed boundaries (n, H, words) of the ids 1..n, and their dilations: each once, however many it meets."""
    maps = bits.to_words([bits.pack(mask == i) for i in range(1, n + 1)], radius + 1)
    edges = bits.boundary(maps, mask.shape[1])
    return edges, bits.near(edges, radius)


def _score_sequence(scores: Scores, name: str, truth: Path, predicted: Path, max_proposals: int, decay: Decay) -> None:
    files = mask_files(name, truth, predicted, least=1)
    pairs = [read_pair(file, predicted / file.name) for file in files]
    n_objects = object_count(pairs[0][0])
    n_found = max(int(found.max()) for _, found in pairs)
    if n_found > max_proposals:
        raise StageError(f"proposal {n_found} in sequence {name}, {max_proposals} are allowed", where=predicted)
    if not n_objects:
        return
    n_proposals = max(n_found, n_objects)  # absent proposals are empty masks
    values = np.stack([pair_scores(*pair, n_objects, n_proposals) for pair in pairs], axis=-1)
    for i, proposal in enumerate(match(values)):
        row = {"sequence": name, "object": i + 1, "proposal": proposal + 1}
        of_object = values[:, proposal, i]
        scores.frames += [
            {**row, "frame": file.stem, "j": float(j), "f": float(f)}
            for file, j, f in zip(files, *of_object, strict=True)
        ]
        for letter, line in zip("jf", of_object, strict=True):
            row |= columns(letter, line, decay)
        scores.objects.append(row)
