"""What the decision rests on: every run's scores, and the model folder they were measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common import hashing
from components.common.errors import StageError
from components.common.scores import Score, read_cells

WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True)
class Evidence:
    """Scores by run and task.

    Attributes:
        scores: run -> task -> score.
        folders: run -> model folder, for the runs that have one.
        failed: (run, task) -> why there is no score.
        unusable: run -> why it cannot be a candidate, whatever its scores.
    """

    scores: dict[str, dict[str, Score]]
    folders: dict[str, Path] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def sha256(self, run: str) -> str:
        """Hash of the run's weights, as evaluate recorded it."""
        return next(iter(self.scores[run].values())).encoder_sha256

    def to_json(self) -> dict[str, Any]:
        return {run: {t: s.model_dump(mode="json") for t, s in tasks.items()} for run, tasks in self.scores.items()}


def read_evidence(metrics: Path, models: Path) -> Evidence:
    """Read all metrics files and check them against the model folders.

    Raises:
        StageError: no usable metrics at all, or metrics that belong to other weights than those in the model folder.
    """
    cells = read_cells(metrics)
    scores: dict[str, dict[str, Score]] = {}
    for cell in cells:
        if cell.score is not None:
            scores.setdefault(cell.run, {})[cell.task] = cell.score
    if not scores:
        why = f" ({cells[0].reason})" if cells else ""
        raise StageError(f"no usable metrics{why}", where=metrics, do="run evaluate first")
    failed = {(cell.run, cell.task): cell.reason for cell in cells if cell.score is None}
    folders = {run: models / run for run in scores if (models / run / WEIGHTS).is_file()}
    for run, folder in folders.items():
        _same_weights(run, scores[run], hashing.file_hash(folder / WEIGHTS))
    return Evidence(scores, folders, failed, {run: "no model folder" for run in scores if run not in folders})


def _same_weights(run: str, scores: dict[str, Score], sha256: str) -> None:
    for task, score in scores.items():
        if score.encoder_sha256 != sha256:
            raise StageError(
                f"{run}-{task}.json was measured on other weights ({score.encoder_sha256[:12]}) than the model folder "
                f"holds ({sha256[:12]})",
                do=f"evaluate '{run}' again",
            )
