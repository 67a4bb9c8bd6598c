"""Figures of image classification from ranked classes, for k-NN and the linear probe; needs no encoder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.common.outputs import write_text

TOP = 5  # depth of the second figure


def accuracies(ranked: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Share of rows whose label is ranked first and, where five are ranked, whose label is among them."""
    hits = ranked == labels[:, None]
    figures = {"top1": float(hits[:, 0].mean())}
    return figures | ({"top5": float(hits[:, :TOP].any(1).mean())} if ranked.shape[1] >= TOP else {})


def class_rows(labels: Sequence[int], predicted: NDArray[np.int64], classes: Sequence[str], figure: str) -> list[dict]:
    """Share of right answers (under the name `figure`) of each class, and the class it is most often taken for."""
    truth, rows = np.array(labels), []
    for number in np.unique(truth):
        of_class = predicted[truth == number]
        wrong = of_class[of_class != number]
        rows.append(
            {
                "class": classes[number],
                "n": len(of_class),
                figure: float((of_class == number).mean()),
                "most_confused_with": classes[int(np.bincount(wrong).argmax())] if len(wrong) else "",
            }
        )
    return rows


def confusion(labels: Sequence[int], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """(C, C) counts [true, predicted]."""
    pairs = np.array(labels) * n_classes + predicted
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def write_predictions(
    file: Path, names: Sequence[str], labels: Sequence[int], ranked: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """CSV of every picture: its true class and the ranked ones (N, up to 5), by name."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "label", *(f"top{i + 1}" for i in range(ranked.shape[1]))])
    for name, label, row in zip(names, labels, ranked.tolist(), strict=True):
        writer.writerow([name, classes[label], *(classes[c] for c in row)])
    write_text(file, table.getvalue())


def score_predictions(file: Path) -> dict[str, Any]:
    """Figures of a CSV with the columns image, label, top1 (and top2..top5); StageError if it is not one."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"predictions not readable, {error}", where=file) from None
    if not rows or not {"label", "top1"} <= set(rows[0]):
        raise StageError("expected a CSV with the columns image, label, top1 and at least one row", where=file)
    columns = [name for name in (f"top{i + 1}" for i in range(TOP)) if name in rows[0]]
    if any(row[name] is None for row in rows for name in ("label", *columns)):
        raise StageError("a row has fewer values than the heading", where=file)
    ranked = np.array([[row[name] for name in columns] for row in rows])
    labels = np.array([row["label"] for row in rows])
    return {"metrics": accuracies(ranked, labels), "n": len(rows)}
