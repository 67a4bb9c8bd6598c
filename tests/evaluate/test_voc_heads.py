"""The VOC protocols beyond the plain probe: random views whose labels follow, the FCN head, saved trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.common.errors import StageError
from components.evaluate.fcn_head import FCNHead
from components.evaluate.layouts.voc import Segmentation
from components.evaluate.probe import Schedule, Work, class_scores, fit, make_head
from components.evaluate.seeds import rng_of
from components.evaluate.tasks import voc_fcn, voc_linear
from components.evaluate.voc_probe import view
from tests.evaluate.small import write_image, write_labels
from tests.evaluate.test_probe import blobs, feed, generator

HOW = Schedule(4, 3, 0.1, 0.9, 1e-3, drop_epoch=3, drop_factor=0.1, shuffle=True, drop_last=True)


def test_protocols_are_the_published_ones() -> None:
    names = ("epochs", "batch_size", "lr", "drop_epoch", "shuffle", "drop_last", "augment", "weight_decay", "momentum")
    common = (0.01, 20)
    expected = {
        "timet": (50, 60, *common, False, False, False, 1e-4, 0.9),
        "leopart": (25, 60, *common, True, True, True, 1e-4, 0.9),
        "neco": (25, 128, *common, True, True, True, 1e-4, 0.9),
    }
    for protocol, values in expected.items():
        args = voc_linear.Args.model_validate({"protocol": protocol})
        assert tuple(getattr(args, name) for name in names) == values
    fcn = voc_fcn.Args.model_validate({})
    assert tuple(getattr(fcn, name) for name in names) == (30, 32, *common, True, True, True, 1e-4, 0.9)
    assert (fcn.channels, fcn.dropout, fcn.input_px, fcn.label_px) == (512, 0.1, 448, 100)
    assert voc_linear.Args.model_validate({"protocol": "neco", "epochs": 3}).epochs == 3


def test_fcn_is_the_published_network() -> None:
    head = FCNHead(6, 5, 3, 0.5, seed=0).eval()
    maps = torch.randn(2, 6, 7, 8, generator=generator())
    first, second = head.convs[0], head.convs[2]
    x = F.relu(F.conv2d(maps, first.weight, first.bias, padding=1))
    x = F.relu(F.conv2d(x, second.weight, second.bias, padding=1))
    x = F.relu(F.conv2d(torch.cat([maps, x], 1), head.join[0].weight, head.join[0].bias, padding=1))
    expected = F.conv2d(x, head.classify[1].weight, head.classify[1].bias)
    torch.testing.assert_close(head(maps), expected)
    assert torch.equal(FCNHead(6, 5, 3, 0.5, seed=0).convs[0].weight, first.weight)
    assert not torch.equal(FCNHead(6, 5, 3, 0.5, seed=1).convs[0].weight, first.weight)
    features = torch.randn(2, 4, 4, 6, generator=generator())  # on the labels' grid: upsampled first
    wide = F.interpolate(features.permute(0, 3, 1, 2), size=(10, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(class_scores(head, features, (10, 10), 10), head(wide), atol=1e-5, rtol=1e-5)
    native = F.interpolate(head(wide), size=(13, 17), mode="bilinear", align_corners=False)
    torch.testing.assert_close(class_scores(head, features, (13, 17), 10), native, atol=1e-5, rtol=1e-5)


def test_batches_of_an_epoch() -> None:
    parts = HOW.parts(8, seed=0, epoch=0)
    assert [len(p) for p in parts] == [3, 3] and len(set(np.concatenate(parts))) == 6
    assert [len(p) for p in HOW.parts(2, 0, 0)] == [2]  # the only one stays
    assert [len(p) for p in Schedule(1, 3, 0.1, 0, 0, 1, 1, shuffle=False).parts(8, 0, 0)] == [3, 3, 2]


@pytest.mark.parametrize("kind", ["linear", "fcn"])
def test_a_killed_training_ends_the_same_to_the_bit(kind: str, tmp_path: Path) -> None:
    features, labels = blobs()

    def head() -> torch.nn.Module:
        return make_head(6, 3, generator()) if kind == "linear" else FCNHead(6, 8, 3, 0.3, seed=0)

    def run(file: Path, epochs: int | None = None) -> tuple[torch.nn.Module, list[float]]:
        network, losses = head(), []
        work = Work(file, "cpu", 4 if kind == "fcn" else None)
        for loss in fit(network, len(features), feed(features, labels), HOW, 0, work):
            losses.append(loss)
            if len(losses) == epochs:
                break
        return network, losses

    whole, losses = run(tmp_path / "a")
    _, first = run(tmp_path / "b", epochs=2)
    resumed, second = run(tmp_path / "b")
    assert losses == first + second and losses[-1] < losses[0]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not whole.training


def test_a_loss_that_is_no_number_is_said() -> None:
    features, labels = blobs()
    how = Schedule(9, 3, 3e38, 0.9, 0.0, 20, 0.1, shuffle=False)
    with pytest.raises(StageError, match="the loss is no number any more in epoch"):
        list(fit(make_head(6, 3, generator()), len(features), feed(features, labels), how, 0))


def picture(folder: Path) -> Segmentation:
    """The label of a pixel is told by its colour."""
    labels = (np.arange(40)[:, None] // 10 + 0 * np.arange(60)).astype(np.uint8)
    labels[:, 30:] = 255
    x = np.arange(60) + 0 * np.arange(40)[:, None]
    pixels = np.stack([np.where(labels == 255, 255, labels * 40), x * 4, 0 * x], -1).astype(np.uint8)
    write_image(folder / "a.png", pixels)
    write_labels(folder / "m.png", labels)
    return Segmentation(["a"], [folder / "a.png"], [folder / "m.png"])


def test_labels_follow_their_pixels(tmp_path: Path) -> None:
    data, mirrored = picture(tmp_path), set()
    args = voc_linear.Args.model_validate({"protocol": "leopart", "input_px": 24, "label_px": 24})
    for seed in range(10):
        pixels, labels = view(data, 0, 4, args, rng_of(seed))
        assert pixels.shape == (24, 24, 3) and labels.shape == (24, 24)
        red = pixels[..., 0].astype(int)
        told = np.where(red > 200, 255, np.round(red / 40))
        assert (told == labels).mean() > 0.8  # not on the borders, which the picture's resize blends
        mirrored.add(bool(pixels[0, 0, 1] > pixels[0, -1, 1]))
        shown = (int(pixels[0, :, 1].max()) - int(pixels[0, :, 1].min())) / (59 * 4)
        assert 0.75 < shown <= 1  # a crop of 80 to 100 % of the area is hardly narrower than that
    assert mirrored == {True, False}
    one, two = (view(data, 0, 4, args, rng_of(5)) for _ in range(2))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
