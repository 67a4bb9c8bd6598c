"""ADE20K: its layout, its figures against loops over pixels, sliding windows, and training views."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.common.errors import StageError
from components.evaluate import scene_score
from components.evaluate.layouts.ade20k import class_names, read_ade20k, read_scene
from components.evaluate.scene_views import Recipe, affine, distort, draw, scaled
from components.evaluate.score_cli import score_main
from components.evaluate.seeds import rng_of
from components.evaluate.sliding import slide, starts
from components.evaluate.tasks.ade_upernet import Args
from tests.evaluate.small import ade20k, real_data, write_image

HOW = Args.model_validate({}).recipe(512)


def small(**changes: object) -> Recipe:
    return Recipe(**{**HOW.__dict__, "short_px": 32, "long_px": 128, "crop_px": 32, **changes})  # type: ignore[arg-type]


def test_layout(tmp_path: Path) -> None:
    root = ade20k(tmp_path / "a")
    train, val = read_ade20k(root, "training"), read_ade20k(root, "validation")
    assert train.names == [f"ADE_train_{i:08d}" for i in range(1, 7)] and len(val.names) == 3
    assert [f.stem for f in train.images] == train.names == [f.stem for f in train.masks]
    labels = read_scene(val.masks[0])
    assert sorted(np.unique(labels)) == [0, 1, 4, 255]  # 1, 2, 5 of the file, and 0
    assert class_names(root, 5) == ["wall", "2", "3", "4", "tree"]
    (tmp_path / "b").mkdir()
    shutil.move(root, tmp_path / "b/ADEChallengeData2016")
    assert read_ade20k(tmp_path / "b", "validation").names == val.names
    assert class_names(tmp_path / "b", 1) == ["wall"]


def test_flat_layout_of_one_split() -> None:
    root = real_data("ade20k_mini")
    val = read_ade20k(root, "validation")
    assert val.names == [f"ADE_val_{i:08d}" for i in (1, 2, 3)]
    with pytest.raises(StageError, match="no pictures of the split 'training'"):
        read_ade20k(root, "training")
    assert class_names(root)[:5] == ["wall", "building", "sky", "floor", "tree"] and class_names(root)[149] == "flag"
    raw = np.array(Image.open(val.masks[0]))
    assert np.array_equal(read_scene(val.masks[0]).astype(int), np.where(raw == 0, 255, raw.astype(int) - 1))


def test_the_sample_world_names_classes_as_the_release_does() -> None:
    from components.download.world.classes import ADE_NAMES

    official = class_names(real_data("ade20k_mini"))
    assert {number: official[number - 1] for number in ADE_NAMES} == ADE_NAMES


def test_layout_disagreements(tmp_path: Path) -> None:
    root = ade20k(tmp_path)
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(StageError, match="1 pictures of 'training' have no label map, first ADE_train_00000002"):
        read_ade20k(root, "training")
    (root / "images/training/ADE_train_00000002.jpg").unlink()
    (root / "images/training/ADE_train_00000003.jpg").unlink()
    with pytest.raises(StageError, match="1 label maps of 'training' have no picture, first ADE_train_00000003"):
        read_ade20k(root, "training")
    write_image(root / "annotations/validation/ADE_val_00000001.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(StageError, match="sizes disagree: image ADE_val_00000001 is 56x40, its label map 9x9"):
        read_ade20k(root, "validation")
    with pytest.raises(StageError, match="label 5 in a benchmark of 4 classes"):
        read_scene(root / "annotations/validation/ADE_val_00000002.png", 4)
    shutil.rmtree(root / "annotations")
    with pytest.raises(StageError, match="not in ADE20K layout, no annotations folder"):
        read_ade20k(root, "validation")


def naive(truth: list[np.ndarray], predicted: list[np.ndarray], n: int) -> tuple[float, float, float]:
    """mIoU, mAcc, aAcc pixel by pixel, labels as in the files: classes 1..n, 0 left out."""
    right, true, taken = [0] * (n + 1), [0] * (n + 1), [0] * (n + 1)
    for t_map, p_map in zip(truth, predicted, strict=True):
        for t, p in zip(t_map.ravel().tolist(), p_map.ravel().tolist(), strict=True):
            if t == 0:
                continue
            true[t] += 1
            taken[p] += 1
            right[t] += t == p
    ious = [right[c] / (true[c] + taken[c] - right[c]) for c in range(1, n + 1) if true[c] + taken[c] - right[c]]
    accuracies = [right[c] / true[c] for c in range(1, n + 1) if true[c]]
    return sum(ious) / len(ious), sum(accuracies) / len(accuracies), sum(right) / sum(true)


def test_figures_equal_a_loop_and_the_command_gives_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 6, (9, 7)).astype(np.uint8) for _ in range(3)]
    predicted = [np.where(rng.random((9, 7)) < 0.5, np.maximum(t, 1), rng.integers(1, 8, (9, 7))).astype(np.uint8) for t in truth]  # fmt: skip  # noqa: E501
    for i in range(3):
        write_image(tmp_path / f"gt/{i}.png", truth[i])
        write_image(tmp_path / f"pred/{i}.png", predicted[i])
    argv = ["score", "--gt", str(tmp_path / "gt"), "--pred", str(tmp_path / "pred"), "--json", str(tmp_path / "o.json")]
    assert (
        score_main(
            "ade_upernet", "help", scene_score.add_arguments, scene_score.score_command, [*argv, "--num-classes", "8"]
        )
        == 0
    )
    found = json.loads((tmp_path / "o.json").read_text())
    expected = dict(zip(("miou", "macc", "aacc"), naive(truth, predicted, 8), strict=True))
    assert found["metrics"] == pytest.approx(expected, abs=1e-12) and found["n"] == 3
    by_class = {row["class"]: row for row in found["classes"]}
    assert by_class["8"]["iou"] is None and by_class["7"]["accuracy"] is None and by_class["7"]["iou"] == 0


def test_bad_maps_are_one_line(tmp_path: Path) -> None:
    write_image(tmp_path / "gt/0.png", np.full((4, 4), 2, np.uint8))
    write_image(tmp_path / "pred/0.png", np.full((4, 4), 0, np.uint8))
    with pytest.raises(StageError, match="predicted labels run from 0 to 0, classes from 1 to 3"):
        scene_score.score_folders(tmp_path / "gt", tmp_path / "pred", 3)
    write_image(tmp_path / "pred/0.png", np.ones((4, 5), np.uint8))
    with pytest.raises(StageError, match="the predicted map is 5x4, the true one 4x4"):
        scene_score.score_folders(tmp_path / "gt", tmp_path / "pred", 3)
    write_image(tmp_path / "gt/0.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(StageError, match="nothing to score"):
        scene_score.score_folders(tmp_path / "gt", tmp_path / "pred", 3)
    with pytest.raises(StageError, match="no such folder"):
        scene_score.score_folders(tmp_path / "gone", tmp_path / "pred")


def test_windows_cover_and_end_with_the_picture() -> None:
    assert starts(512, 512, 341) == [0] and starts(300, 512, 341) == [0]
    assert starts(513, 512, 341) == [0, 1] and starts(683, 512, 341) == [0, 171]
    assert starts(2048, 512, 341) == [0, 341, 682, 1023, 1364, 1536]


@pytest.mark.parametrize("size", [(11, 17), (8, 8), (5, 20), (6, 7)])
def test_sliding_mean_equals_a_loop(size: tuple[int, int]) -> None:
    """Every pixel: the mean over the windows that hold it, of what the network says of it there."""
    window, stride = 8, 5
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place = torch.arange(64.0, dtype=torch.float64).view(8, 8)

    def network(windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([windows[:, 0] * place, windows.sum(1) - windows.mean((1, 2, 3))[:, None, None]], dim=1)

    found = slide(image, network, window, stride, batch=3)
    padded = torch.zeros(3, max(8, size[0]), max(8, size[1]), dtype=torch.float64)
    padded[:, : size[0], : size[1]] = image

    def begins(side: int) -> list[int]:
        at = [0]
        while at[-1] + window < side:
            at.append(min(at[-1] + stride, side - window))
        return at

    for y in range(size[0]):
        for x in range(size[1]):
            seen = [
                network(padded[None, :, top : top + 8, left : left + 8])[0, :, y - top, x - left]
                for top in begins(padded.shape[1]) if top <= y < top + 8
                for left in begins(padded.shape[2]) if left <= x < left + 8
            ]  # fmt: skip
            torch.testing.assert_close(found[:, y, x].double(), torch.stack(seen).mean(0), atol=1e-5, rtol=1e-5)


def test_scaling_keeps_the_shape_within_both_limits() -> None:
    assert scaled(512, 683, 512, 2048) == (512, 683)
    assert scaled(100, 200, 512, 2048) == (512, 1024)
    assert scaled(100, 800, 512, 2048) == (256, 2048)  # the long side decides
    assert scaled(3, 1000, 10, 30) == (1, 30)


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose pixels tell where they are."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], axis=-1).astype(np.uint8)


def test_views_are_crops_mirrored_and_padded() -> None:
    image = coordinates(64, 48)
    labels = (image[..., 0] // 16).astype(np.uint8)
    how = small(short_px=48, long_px=64, ratio=(1.0, 1.0), photometric=False, max_class_share=1.0)
    mirrored = set()
    for seed in range(12):
        view = draw(image, labels, how, rng_of(seed))
        assert view.pixels.shape == (32, 32, 3) and (view.height, view.width) == (32, 32)
        assert np.array_equal(view.labels, view.pixels[..., 0] // 16)  # labels go with their pixels
        steps = np.diff(view.pixels[0, :, 1].astype(int))
        assert set(steps) in ({1}, {-1})
        mirrored.add(int(steps[0]))
    assert mirrored == {1, -1}
    view = draw(image, labels, small(ratio=(0.5, 0.5), photometric=False), rng_of(0))
    assert (
        (view.height, view.width) == (21, 16) and (view.labels[21:] == 255).all() and (view.labels[:, 16:] == 255).all()
    )
    again = (
        draw(image, labels, HOW, rng_of(3)),
        draw(image, labels, HOW, rng_of(3)),
        draw(image, labels, HOW, rng_of(4)),
    )
    assert np.array_equal(again[0].pixels, again[1].pixels) and not np.array_equal(again[0].pixels, again[2].pixels)


def test_a_crop_that_one_class_fills_is_drawn_again() -> None:
    labels = np.zeros((32, 400), np.uint8)
    labels[:, 200:] = 1
    image = np.repeat(labels[..., None], 3, axis=2)
    how = small(short_px=32, long_px=400, ratio=(1.0, 1.0), photometric=False)
    free = small(**{**how.__dict__, "max_class_share": 1.0})

    def mixed(which: Recipe) -> float:
        counts = [np.bincount(draw(image, labels, which, rng_of(s)).labels.ravel()) for s in range(60)]
        return float(np.mean([c.max() / c.sum() < 0.75 for c in counts]))

    assert mixed(how) > 2.5 * mixed(free) > 0


def test_affine_is_the_published_conversion() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for factor, shift in [(1.0, -31.6), (0.53, 0.0), (1.47, 0.0), (1.0, 7.2)]:
        expected = [[int(min(max(v * factor + shift, 0), 255)) for v in row] for row in grey.tolist()]
        assert np.abs(affine(grey, factor, shift).astype(int) - expected).max() <= 1  # float32 against float64
        assert (affine(grey, factor, shift) == expected).mean() > 0.99


def test_distortion_draws_each_change_half_of_the_time() -> None:
    image = np.full((4, 4, 3), (90, 120, 60), np.uint8)
    found = [distort(image, HOW, rng_of(s)) for s in range(400)]
    assert 0.02 < np.mean([np.array_equal(f, image) for f in found]) < 0.11  # (1/2)^4 = 0.06
    assert all(f.dtype == np.uint8 and (f == f[0, 0]).all() for f in found)
    grey = small(brightness=0, saturation=(1.0, 1.0), hue=0)
    values = [distort(image, grey, rng_of(s))[0, 0] for s in range(200)]
    changed = [v / np.array([90, 120, 60]) for v in values if not np.array_equal(v, [90, 120, 60])]
    assert 0.35 < len(changed) / 200 < 0.65 and all(np.ptp(c) < 0.03 and 0.48 < c.mean() < 1.52 for c in changed)
    hue = small(brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0))
    turned = [distort(image, hue, rng_of(s))[0, 0] for s in range(50)]
    assert all(abs(int(t.max()) - 120) <= 1 and abs(int(t.min()) - 60) <= 1 for t in turned)  # value, saturation stay
    assert len({tuple(t) for t in turned}) > 10
