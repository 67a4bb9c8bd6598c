"""Sizes, first labels and decoding of the two protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from components.common.encoder import load_encoder
from components.common.errors import StageError
from components.evaluate.layouts.davis import read_davis
from components.evaluate.protocols import protocol_of
from components.evaluate.tasks.vos import Args
from components.evaluate.video import Effort, decode, first_labels, input_size, masks_of, stretch
from tests.evaluate.small import davis


def reading(protocol: str, **changes: object):  # type: ignore[no-untyped-def]
    return protocol_of(Args.model_validate({"protocol": protocol, **changes}))[0]


def test_published_constants() -> None:
    dino, cropmae, crw = (Args.model_validate({"protocol": name}) for name in Args.published)
    assert (dino.context_frames, dino.radius_cells, dino.top_k, dino.temperature) == (7, 12, 5, 0.1)
    assert (dino.input_px, dino.long_side_multiple_px, dino.pixel_std) == (480, 64, (0.228, 0.224, 0.225))
    assert (cropmae.context_frames, cropmae.radius_cells, cropmae.top_k, cropmae.temperature) == (20, 20, 7, 0.7)
    assert (cropmae.input_px, cropmae.pixel_std) == ((480, 880), None)
    assert (crw.context_frames, crw.radius_cells, crw.top_k, crw.temperature, crw.input_px) == (20, 12, 10, 0.05, None)
    assert (crw.window, crw.restrict_first, crw.fill_with_first, crw.min_max) == ("disk", False, True, False)
    assert Args.model_validate({}) == dino
    assert Args.model_validate({"top_k": 3}).top_k == 3


@pytest.mark.parametrize(
    ("source", "protocol", "patch", "expected"),
    [
        ((480, 854), "dino", 16, (480, 832)),
        ((480, 910), "dino", 16, (480, 896)),
        ((854, 480), "dino", 16, (832, 480)),
        ((1080, 1920), "dino", 8, (480, 832)),
        ((480, 854), "cropmae", 16, (480, 880)),
        ((480, 854), "crw", 8, (480, 848)),  # videowalk's network pads; a patch cannot be cut in two
        ((480, 854), "dino", 14, (476, 826)),  # no multiple of 14: both sides rounded down
    ],
)
def test_input_size(source: tuple[int, int], protocol: str, patch: int, expected: tuple[int, int]) -> None:
    assert input_size(*source, reading(protocol), patch) == expected


def test_input_by_the_long_side() -> None:
    """CropMAE's sizes for VIP: the long side 880, the other down to a multiple of 64."""
    by_long = replace(reading("cropmae"), input_px=880, long_side_multiple_px=64, input_side="long")
    assert input_size(720, 1280, by_long, 16) == (448, 880)
    assert input_size(1280, 720, by_long, 16) == (880, 448)
    assert input_size(720, 720, by_long, 16) == (880, 832)


def test_input_too_small_for_a_patch() -> None:
    with pytest.raises(StageError, match="left without a patch"):
        input_size(48, 64, reading("dino", input_px=12), 16)


def test_first_labels_nearest() -> None:
    truth = np.zeros((32, 48), np.uint8)
    truth[:16, :24] = 3
    ids, labels = first_labels(truth, (32, 48), (4, 6), "nearest")
    assert ids == [0, 1, 2, 3]
    assert labels.shape == (4, 6, 4)
    assert labels[:2, :3, 3].eq(1).all() and labels[..., 3].sum() == 6 and labels[..., 1].sum() == 0


def test_first_labels_bilinear_sees_the_four_centre_pixels() -> None:
    """Checked against OpenCV's resize of the one-hot maps, which the protocol's code calls."""
    truth = np.random.default_rng(0).integers(0, 2, (64, 96)).astype(np.uint8)
    ids, labels = first_labels(truth, (64, 96), (4, 6), "bilinear")
    assert ids == [0, 1]
    for channel, i in enumerate(ids):
        expected = cv2.resize((truth == i).astype(np.float32), (6, 4), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(labels[..., channel].numpy(), expected, atol=1e-6)
    assert set(np.unique(labels.numpy())) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_bilinear_channels_follow_the_palette() -> None:
    """Index 8 is dark red (64, 0, 0): in blue-green-red order it comes before index 1, (128, 0, 0)."""
    truth = np.array([[0, 1, 8, 4]], np.uint8).repeat(4, 0)
    assert first_labels(truth, (4, 4), (4, 4), "bilinear")[0] == [0, 8, 1, 4]
    assert first_labels(truth, (4, 4), (4, 4), "bilinear", "value")[0] == [0, 1, 4, 8]


def test_stretch_keeps_a_constant_channel() -> None:
    maps = torch.tensor([[[2.0, 4.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    assert stretch(maps).tolist() == [[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]]]


def test_decode_is_the_largest_interpolated_label() -> None:
    soft = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    found = decode(soft, [0, 7], (24, 32), (12, 16), min_max=False)
    maps = F.interpolate(soft.permute(2, 0, 1)[None], size=(24, 32), mode="bilinear")[0]
    expected = Image.fromarray((maps.argmax(0) * 7).numpy().astype(np.uint8)).resize((16, 12), Image.Resampling.NEAREST)
    assert np.array_equal(found, np.array(expected))


@pytest.mark.parametrize("protocol", ["dino", "cropmae", "crw"])
def test_a_still_video_keeps_its_mask(tmp_path: Path, model: Path, protocol: str) -> None:
    """With one vote per cell the result is the first mask at the resolution of the grid."""
    benchmark = davis(tmp_path, names=("a",), size=(32, 48))
    frames = sorted((benchmark / "JPEGImages/480p/a").iterdir())
    for frame in frames[1:]:
        frame.write_bytes(frames[0].read_bytes())
    changes = {"input_px": [32, 48], "top_k": 1, "radius_cells": 3, "keep_ties": False}
    args = Args.model_validate({"protocol": protocol, **changes})
    (sequence,) = read_davis(benchmark)
    truth = np.array(Image.open(sequence.masks[0]))
    effort = Effort(batch=3, workers=1, device="cpu")
    masks = list(masks_of(sequence.frames, truth, load_encoder(model), *protocol_of(args), effort))
    assert len(masks) == 5
    assert np.array_equal(masks[0], truth) == (protocol == "dino")
    for mask in masks[1:]:
        assert np.array_equal(mask, masks[1])
        assert (mask != truth).mean() < 0.25
