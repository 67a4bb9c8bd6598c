"""A task that cannot be done says so in its metrics; what is no fault of the task fails the stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.errors import ExitCode, StageError
from components.common.scores import read_cells
from components.common.tracking.journal import Journal
from components.evaluate.failure import failure_of, finite
from components.evaluate.task import TaskResult
from components.evaluate.tasks import knn
from tests.evaluate.small import davis, evaluate, imagenet

LENIENT: dict[str, Any] = {"strict": False}


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out.json").read_text()))


def test_a_broken_benchmark_is_a_result(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = davis(tmp_path / "b")
    mask = root / "Annotations/480p/b/00004.png"
    whole = mask.read_bytes()
    mask.unlink()
    assert evaluate(tmp_path, "vos", model, root, **LENIENT) == 0
    document, reason = told(tmp_path), "masks and frames disagree: sequence b has 5 frames and 4 masks"
    assert reason in document["error"] and "metrics" not in document
    assert {"method", "task", "encoder_sha256", "encoder_origin", "benchmark_hash", "seed"} <= set(document)
    assert f"warning: failed, {document['error']}" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir() if file.suffix != ".json"] == ["error.txt"]
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/dino-vos.json").write_text((tmp_path / "out.json").read_text())
    (cell,) = read_cells(tmp_path / "metrics")
    assert cell.score is None and cell.reason == document["error"]
    (journal,) = [Journal(file.parent) for file in (tmp_path / "cache/tracking").glob("*/journal.jsonl")]
    end = journal.last()
    assert end is not None and (end["status"], end["reason"]) == ("FAILED", document["error"])
    mask.write_bytes(whole)
    assert evaluate(tmp_path, "vos", model, root, **LENIENT) == 0
    assert "error" not in told(tmp_path) and told(tmp_path)["metrics"]["jf_mean"] >= 0


def test_strict_fails_the_stage(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet(tmp_path / "b", n_classes=2, n_train=2, n_val=1)
    (root / "train/class1/1.png").write_bytes(b"")
    assert evaluate(tmp_path, "knn", model, root, strict=True) == ExitCode.BAD_INPUT
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "out").exists()
    monkeypatch.setattr(knn, "read_imagenet", _no_memory)
    assert evaluate(tmp_path, "knn", model, root, strict=True) == ExitCode.NO_ROOM


def test_memory_that_does_not_suffice_is_a_result_and_the_next_try_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = imagenet(tmp_path / "b", n_classes=2, n_train=2, n_val=1)
    with monkeypatch.context() as patch:
        patch.setattr(knn.knn_score, "classify", _no_memory)
        assert evaluate(tmp_path, "knn", model, root, **LENIENT) == 0
    assert told(tmp_path)["error"].startswith("CUDA out of memory. Tried to allocate 20 MiB (lower batch_images")
    assert evaluate(tmp_path, "knn", model, root, **LENIENT) == 0
    assert "error" not in told(tmp_path)


def _no_memory(*args: object, **kwargs: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB\nSee documentation")


def test_weights_that_are_not_finite_are_a_result(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "encoder.safetensors")
    tensors["norm.weight"][0] = float("nan")
    broken = tmp_path / "broken"
    broken.mkdir()
    save_file(tensors, broken / "encoder.safetensors")
    (broken / "config.json").write_text((model / "config.json").read_text())
    assert evaluate(tmp_path, "knn", broken, imagenet(tmp_path / "b", n_classes=2), **LENIENT) == 0
    assert told(tmp_path)["error"].startswith("the encoder's features are not finite")


def test_a_defect_is_no_result(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(knn.knn_score, "classify", broken)
    with pytest.raises(ZeroDivisionError):
        evaluate(tmp_path, "knn", model, imagenet(tmp_path / "b", n_classes=2), **LENIENT)
    assert not (tmp_path / "out.json").exists()


def test_an_encoder_that_is_not_there_fails_the_stage(tmp_path: Path) -> None:
    assert evaluate(tmp_path, "knn", "timm:no_such_model", imagenet(tmp_path / "b", n_classes=2), **LENIENT) == 2
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StageError("broken"), "broken"),
        (MemoryError(), "out of memory, MemoryError (lower batch_images)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "can't allocate memory"),
        (StageError("a server", code=ExitCode.UNREACHABLE), None),
        (StageError("full", code=ExitCode.NO_ROOM), None),
        (RuntimeError("shapes"), None),
        (OSError(28, "No space left on device"), None),
    ],
)
def test_whose_fault_it_is(error: Exception, said: str | None) -> None:
    failure = failure_of(error)
    assert (failure is None) == (said is None)
    assert said is None or said in str(failure)


def test_figures_that_are_not_finite_are_no_result() -> None:
    result = TaskResult("p", {"a": 0.5, "b": float("nan"), "c": float("inf")}, "a", "d", [])
    with pytest.raises(StageError, match="not finite: b, c"):
        finite(result)
    assert finite(TaskResult("p", {"a": 0.5}, "a", "d", [])).metrics == {"a": 0.5}


@pytest.mark.parametrize(("task", "size"), [("knn", "crop_px"), ("knn", "pad"), ("knn", "crop")])
def test_sizes_that_are_no_multiple_of_the_patch(task: str, size: str, model: Path, tmp_path: Path) -> None:
    """30 pixels and patches of 8: rounded to 24 by default, padded or cropped where asked; always said."""
    root = imagenet(tmp_path / "b", n_classes=2, n_train=2, n_val=1)
    changes = {} if size == "crop_px" else {"fit": size}
    assert evaluate(tmp_path, task, model, root, crop_px=30, **changes) == 0
    notes = {
        "crop_px": "pictures enter at 24x24 instead of 30x30: whole 8-pixel patches",
        "pad": "pictures of 30x30 are padded to whole 8-pixel patches",
        "crop": "pictures of 30x30 are cropped to whole 8-pixel patches",
    }
    assert notes[size] in told(tmp_path)["notes"]
