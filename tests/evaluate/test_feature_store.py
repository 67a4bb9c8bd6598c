"""Features that tasks share: computed once, by whoever comes first, and never served for anything else."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components.common.errors import StageError
from components.common.progress import Progress
from components.evaluate.feature_store import WHOLE, FeatureStore, Look, Transform
from components.evaluate.features import FeatureBank, extract
from components.evaluate.images import read_rgb
from components.evaluate.task import Job, TaskParams
from tests.evaluate.small import evaluate, imagenet, voc, write_image

HOW = Transform("as it is", (8,), "mean")
ARGS = TaskParams.model_validate({"batch_images": 2, "workers": 1})
LIMIT = 1 << 30


def look(file: Path) -> np.ndarray:
    return np.array(read_rgb(file))


def mirrored(file: Path) -> np.ndarray:
    return look(file)[:, ::-1]


class Encoder:
    """Means of pictures (B, 3), and how many pictures were asked for."""

    def __init__(self, fails_at: int | None = None, pause_s: float = 0.0) -> None:
        self.seen, self.fails_at, self.pause_s = 0, fails_at, pause_s

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.fails_at is not None and self.seen >= self.fails_at:
            raise KeyboardInterrupt
        self.seen += len(pixels)
        time.sleep(self.pause_s)
        return pixels.float().mean((1, 2))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    made = [tmp_path / "pictures" / f"{i}.png" for i in range(5)]
    for file in made:
        write_image(file, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return made


def store(root: Path, encoder: str = "e", limit: int = LIMIT) -> FeatureStore:
    return FeatureStore(root / "features", root / "locks", encoder, limit, lambda line: None)


def passed(
    root: Path,
    files: list[Path],
    forward: Callable[[Tensor], Tensor],
    name: str = "task",
    how: Transform = HOW,
    looks: Look = look,
    args: TaskParams = ARGS,
    features: FeatureStore | None = None,
) -> FeatureBank:
    """One task's pass, with a cache of its own."""
    features = features or store(root)
    job = Job(name, root, root / name, "cpu", print, lambda total, unit: Progress(total, unit), features)
    try:
        return extract(files, looks, forward, root / name, args, job, how)
    finally:
        features.release()


def values(bank: FeatureBank) -> np.ndarray:
    return np.concatenate(list(bank.chunks(100)))


def test_the_second_task_makes_no_pass(files: list[Path], tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    one, two = passed(tmp_path, files, first, "a"), passed(tmp_path, files, second, "b")
    assert (first.seen, second.seen) == (5, 0)
    expected = np.stack([look(file).mean((0, 1)) for file in files])
    np.testing.assert_allclose(values(one), expected, rtol=1e-6)
    assert np.array_equal(values(one), values(two))
    moved = [file.parent.parent / "elsewhere" / f"other-{file.name}" for file in files]
    for file, copy in zip(files, moved, strict=True):  # pictures count by what they show, not by where they lie
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    passed(tmp_path, moved, second, "c")
    assert second.seen == 0


CHANGES: dict[str, dict[str, Any]] = {
    "encoder": {"features": "f"},
    "name": {"how": replace(HOW, name="another")},
    "sizes": {"how": replace(HOW, sizes=(9,))},
    "takes": {"how": replace(HOW, takes="cls")},
    "look of the same name": {"looks": mirrored},
    "batch": {"args": ARGS.model_copy(update={"batch_images": 3})},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_decides_the_features_is_another_pass(
    change: dict[str, Any], files: list[Path], tmp_path: Path
) -> None:
    passed(tmp_path, files, Encoder())
    if "features" in change:
        change = {"features": store(tmp_path, change["features"])}
    again = Encoder()
    passed(tmp_path, files, again, **change)
    assert again.seen == 5


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_picture_is_another_pass(keep_times: bool, files: list[Path], tmp_path: Path) -> None:
    passed(tmp_path, files, Encoder())
    facts, pixels = files[3].stat(), look(files[3])
    write_image(files[3], 255 - pixels)
    if keep_times:
        os.utime(files[3], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = Encoder()
    assert np.allclose(values(passed(tmp_path, files, again))[3], (255 - pixels).mean((0, 1)))
    assert again.seen == 5
    order = Encoder()
    passed(tmp_path, files[::-1], order)
    assert order.seen == 5


def test_goes_on_where_a_killed_pass_was(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        passed(tmp_path, files, Encoder(fails_at=4))
    rest = Encoder()
    assert len(passed(tmp_path, files, rest, "another")) == 5
    assert rest.seen == 1


def test_two_at_once_compute_it_once(files: list[Path], tmp_path: Path) -> None:
    encoders = [Encoder(pause_s=0.1) for _ in range(3)]
    banks: list[FeatureBank] = []
    work = [threading.Thread(target=lambda e=e: banks.append(passed(tmp_path, files, e))) for e in encoders]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert sorted(encoder.seen for encoder in encoders) == [0, 0, 5]
    assert all(np.array_equal(values(bank), values(banks[0])) for bank in banks) and len(banks) == 3


def entries(root: Path) -> set[str]:
    return {file.parent.name for file in (root / "features").glob(f"*/{WHOLE}")}


def test_the_least_recently_used_go_and_what_is_read_stays(files: list[Path], tmp_path: Path) -> None:
    keys = []
    for number in range(3):
        before = entries(tmp_path)
        passed(tmp_path, files, Encoder(), how=replace(HOW, sizes=(number,)))
        keys += list(entries(tmp_path) - before)
    for age, key in zip((1, 3, 2), keys, strict=True):
        os.utime(tmp_path / "features" / key / "used", (time.time() - 60 * age,) * 2)
    size = sum(file.stat().st_size for file in (tmp_path / "features" / keys[0]).iterdir())
    store(tmp_path, limit=2 * size).tidy()
    assert entries(tmp_path) == {keys[0], keys[2]}
    reader = store(tmp_path)
    reader.open(keys[2])
    store(tmp_path, limit=0).tidy()
    assert entries(tmp_path) == {keys[2]}
    reader.release()
    os.utime(tmp_path / "features" / keys[2] / "used", (time.time() - 8 * 86_400,) * 2)
    store(tmp_path).tidy()  # a week is the longest
    assert entries(tmp_path) == set()


def test_features_that_are_not_finite_are_one_clear_line(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="features are not finite: task, "):
        passed(tmp_path, files, lambda pixels: pixels.float().mean((1, 2)) / 0 * 0)
    with pytest.raises(StageError, match="no such picture"):
        passed(tmp_path, [*files[:2], tmp_path / "absent.png", *files[2:]], Encoder())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each forward pass of a real encoder had."""
    forward, seen = torch.nn.Module.__call__, list[int]()

    def counted(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(self).__name__ == "PatchEmbed":
            seen.append(len(args[0]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    return seen


def test_evaluations_share_what_agrees(model: Path, tmp_path: Path, passes: list[int]) -> None:
    """The stage itself: another rate, another name of the folder; then another picture, size, position table."""
    root = voc(tmp_path / "b")
    assert evaluate(tmp_path, "voc_linear", model, root) == 0
    assert sum(passes) == 6 + 3
    first = (tmp_path / "out.json").read_text()
    root = root.rename(tmp_path / "moved")
    assert evaluate(tmp_path, "voc_linear", model, root, lr=0.05) == 0
    assert sum(passes) == 9
    assert (tmp_path / "out.json").read_text() != first
    for changes, pictures in (({"pos_quirk": True}, 9), ({"input_px": 40}, 9), ({"features_gib": 0, "lr": 0.02}, 0)):
        passes.clear()
        assert evaluate(tmp_path, "voc_linear", model, root, **changes) == 0
        assert sum(passes) == pictures, changes
    assert entries(tmp_path / "cache" / "evaluate") == set()  # the last one was told to keep none
    data = imagenet(tmp_path / "c", n_classes=2, n_train=2, n_val=1)
    passes.clear()
    for out, k in (("one", [1]), ("two", [1, 2])):
        assert evaluate(tmp_path, "knn", model, data, out=out, k=k, primary_k=1) == 0
        assert sum(passes) == 6
