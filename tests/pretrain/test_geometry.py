"""Crops: the draw against torchvision's, the resize against Pillow's, boxes under every circumstance."""

from __future__ import annotations

import math

import numpy as np
import pictures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from components.pretrain.geometry import Box, centre_box, cut, decode_factor, random_resized_crop

RATIO = (3 / 4, 4 / 3)
SIDES = st.integers(1, 2000)
SCALES = st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted).map(tuple)
RATIOS = st.tuples(st.floats(0.2, 5.0), st.floats(0.2, 5.0)).map(sorted).map(tuple)


@pytest.mark.parametrize(("height", "width", "scale"), [(256, 340, (0.4, 1.0)), (256, 602, (0.05, 0.4))])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    ours = np.array([random_resized_crop(height, width, scale, RATIO, rng) for _ in range(4000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = [RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(4000)]
    order = np.array([(left, top, w, h) for top, left, h, w in theirs])
    for place in range(4):
        assert ks_2samp(ours[:, place], order[:, place]).pvalue > 0.01
    areas = [(boxes[:, 2] * boxes[:, 3]) / (height * width) for boxes in (ours, order)]
    ratios = [boxes[:, 2] / boxes[:, 3] for boxes in (ours, order)]
    assert ks_2samp(*areas).pvalue > 0.01 and ks_2samp(*ratios).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(100, 1000), (1000, 100), (101, 997), (3, 7), (256, 256), (256, 300)])
def test_the_fallback_is_torchvisions(height: int, width: int) -> None:
    """A scale that never fits: both fall back on the centre."""
    scale = (1.5, 1.5)
    top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), list(RATIO))
    assert random_resized_crop(height, width, scale, RATIO, np.random.default_rng(0)) == Box(left, top, w, h)
    assert centre_box(height, width, RATIO) == Box(left, top, w, h)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SCALES, RATIOS, st.integers(0, 2**32))
def test_boxes_lie_inside_and_repeat(height: int, width: int, scale: tuple, ratio: tuple, seed: int) -> None:
    box = random_resized_crop(height, width, scale, ratio, np.random.default_rng(seed))
    assert box == random_resized_crop(height, width, scale, ratio, np.random.default_rng(seed))
    assert box.w > 0 and box.h > 0 and box.x >= 0 and box.y >= 0
    assert box.x + box.w <= width and box.y + box.h <= height


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SCALES, st.integers(1, 300), st.integers(0, 2**32))
def test_reduced_boxes_lie_inside_near_their_place_and_upscale_nothing(
    height: int, width: int, scale: tuple, size: int, seed: int
) -> None:
    box = random_resized_crop(height, width, scale, RATIO, np.random.default_rng(seed))
    factor = decode_factor([(box, size)])
    small = box.reduced(factor, height, width)
    assert small.x >= 0 and small.y >= 0
    assert small.x + small.w <= width / factor and small.y + small.h <= height / factor
    if factor > 1:
        assert small.w >= size and small.h >= size
        edges = zip(_edges(box), _edges(small), strict=True)
        rim = max(height % factor, width % factor)
        assert all(abs(whole - factor * part) <= factor + rim for whole, part in edges)
    else:
        assert small == box


def _edges(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.x + box.w, box.y + box.h


def test_decode_factor_follows_the_tightest_box() -> None:
    assert decode_factor([(Box(0, 0, 800, 800), 100)]) == 8
    assert decode_factor([(Box(0, 0, 800, 799), 100)]) == 4
    assert decode_factor([(Box(0, 0, 800, 800), 100), (Box(0, 0, 230, 250), 96)]) == 2
    assert decode_factor([(Box(0, 0, 800, 800), 100), (Box(0, 0, 95, 250), 96)]) == 1


# (box, side of the view, allowed mean difference on drawn pictures, on real frames), in levels of 255, one a filter:
# cubic up and down, linear, halving, area. Measured: 0.28 / 0.53, 0.30 / 0.62, 0.35 / 0.92, 0.44 / 1.13, 0.72 / 1.58.
CUTS = [
    (Box(7, 3, 60, 70), 96, 0.5, 0.8),
    (Box(7, 3, 110, 100), 96, 0.5, 0.9),
    (Box(7, 3, 125, 120), 96, 0.6, 1.3),
    (Box(7, 3, 180, 190), 96, 0.7, 1.6),
    (Box(7, 0, 256, 200), 48, 1.1, 2.1),
]


@pytest.mark.parametrize(("box", "size", "drawn", "real"), CUTS)
@pytest.mark.parametrize("kind", ["drawn", "real"])
def test_cut_is_near_pillows_antialiased_bicubic(box: Box, size: int, drawn: float, real: float, kind: str) -> None:
    images, allowed = (pictures.drawn(), drawn) if kind == "drawn" else (pictures.real(), real)
    apart = []
    for image in images:
        piece = Image.fromarray(image).crop((box.x, box.y, box.x + box.w, box.y + box.h))
        theirs = np.asarray(piece.resize((size, size), Image.Resampling.BICUBIC))
        apart.append(np.abs(cut(image, box, size).astype(int) - theirs).mean())
    assert np.mean(apart) < allowed


@pytest.mark.parametrize("size", [8, 37, 64, 100, 140, 300])
def test_cut_has_no_shift(size: int) -> None:
    """Pixel centres map to pixel centres for every filter: a ramp stays the same ramp."""
    ramp = np.repeat(np.arange(40, 240, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(200, axis=0)
    box = Box(20, 10, 150, 160)
    centres = box.x + (np.arange(size) + 0.5) * box.w / size - 0.5 + 40
    inside = slice(math.ceil(3 * size / 150), -math.ceil(3 * size / 150))  # a filter folds at the crop's edge
    assert np.abs(cut(ramp, box, size)[size // 2, :, 0] - centres)[inside].max() <= 0.75
