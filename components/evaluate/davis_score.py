"""Scores of predicted masks against true ones, read from folders of indexed PNGs; needs no model and no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.evaluate.davis_metrics import VOID, Mask, frame_scores, object_count, statistics
from components.evaluate.images import folders_in, pictures_in, read_index

Row = dict[str, Any]
HEADINGS = ("mean", "recall", "decay")
Decay = Literal["whole", "eight_bits"]


@dataclass
class Scores:
    """Rows of the three levels: the benchmark, an object of a sequence, an object in a frame."""

    objects: list[Row] = field(default_factory=list)
    frames: list[Row] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The official table's row: every figure is a mean over objects, not over sequences or frames."""
        names = [f"{letter}_{heading}" for letter in "jf" for heading in HEADINGS]
        told = [name for name in names if all(row[name] is not None for row in self.objects)]
        means = {name: float(np.mean([row[name] for row in self.objects])) for name in told}
        return {"jf_mean": (means["j_mean"] + means["f_mean"]) / 2, **means}


def score_folders(
    truth: Path, predicted: Path, names: Iterable[str] | None = None, decay: Decay = "whole", binary: bool = False
) -> Scores:
    """Score `predicted/<sequence>/*.png` against `truth/<sequence>/*.png` over the named (else all) sequences.

    `binary`: all that is not 0 is one object, 255 too, as in DAVIS-2016.

    Raises:
        StageError: a sequence or mask is missing, sizes differ, or an id is predicted that the first mask lacks.
    """
    scores = Scores()
    for name in names if names is not None else [folder.name for folder in folders_in(truth)]:
        score_sequence(scores, name, truth / name, predicted / name, decay, binary)
    if not scores.objects:
        raise StageError("nothing to score: no sequence has an object in its first mask", where=truth)
    return scores


def score_sequence(
    scores: Scores, name: str, truth: Path, predicted: Path, decay: Decay = "whole", binary: bool = False
) -> None:
    """Append one sequence's rows. The first mask is given, and the last is left out as in DAVIS-2016."""
    files = mask_files(name, truth, predicted, least=3)
    n_objects = 1 if binary else object_count(read_index(files[0]))
    values = np.empty((2, n_objects, len(files) - 2))
    for t, file in enumerate(files[1:-1]):
        pair = read_pair(file, predicted / file.name, binary)
        if int(pair[1].max()) > n_objects:
            what = f"object {int(pair[1].max())} is predicted, but the sequence's first mask has {n_objects}"
            do = "masks of 0 and 255, as DAVIS-2016 has them, are scored by `--setting binary`"
            raise StageError(what, where=predicted / file.name, do=do if pair[1].max() == VOID else None)
        pair[0][pair[0] == VOID] = 0
        values[0, :, t], values[1, :, t] = frame_scores(*pair, n_objects)
        for i in range(n_objects):
            row = {"sequence": name, "object": i + 1, "frame": file.stem}
            scores.frames.append({**row, "j": float(values[0, i, t]), "f": float(values[1, i, t])})
    for i in range(n_objects):
        row = {"sequence": name, "object": i + 1}
        for letter, of_object in zip("jf", values[:, i], strict=True):
            row |= columns(letter, of_object, decay)
        scores.objects.append(row)


def columns(letter: str, values: NDArray[np.float64], decay: Decay) -> Row:
    """An object's figures; null for a decay that the official code's frame numbers leave without frames."""
    found = statistics(values, decay == "eight_bits")
    return {f"{letter}_{h}": None if np.isnan(v) else v for h, v in zip(HEADINGS, found, strict=True)}


def mask_files(name: str, truth: Path, predicted: Path, least: int) -> list[Path]:
    """The sequence's true masks, by name; StageError if there are fewer than `least`, or no folder of either."""
    for folder in (truth, predicted):
        if not folder.is_dir():
            raise StageError(f"no masks of sequence {name}", where=folder)
    files = [file for file in pictures_in(truth) if file.suffix.lower() == ".png"]
    if len(files) < least:
        why = "; the first and the last are not scored, so 3 are needed" if least == 3 else ""
        raise StageError(f"sequence {name} has {len(files)} masks{why}", where=truth)
    return files


def read_pair(truth_file: Path, predicted_file: Path, binary: bool = False) -> tuple[Mask, Mask]:
    """True and predicted id map of one frame, of 0 and 1 if `binary`; StageError if one is missing or sizes differ."""
    truth = read_index(truth_file)
    if not predicted_file.is_file():
        raise StageError("a predicted mask is missing", where=predicted_file)
    predicted = read_index(predicted_file)
    if truth.shape != predicted.shape:
        what = f"the predicted mask is {predicted.shape[1]}x{predicted.shape[0]}, the true one "
        raise StageError(what + f"{truth.shape[1]}x{truth.shape[0]}", where=predicted_file)
    return ((truth > 0).view(np.uint8), (predicted > 0).view(np.uint8)) if binary else (truth, predicted)
