"""J and F against a literal rendition of their definition: full frame, library morphology, one pixel at a time."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.morphology import disk

from components.evaluate import bits
from components.evaluate import davis_metrics as dm
from tests.evaluate.small import real_data


def literal_boundary(mask: np.ndarray) -> np.ndarray:
    """A pixel is boundary if its right, lower or lower-right neighbour differs; fewer neighbours on the last lines."""
    height, width = mask.shape
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            around = [(0, 1), (1, 0), (1, 1)]
            if y == height - 1:
                around = [(0, 1)] if x < width - 1 else []
            elif x == width - 1:
                around = [(1, 0)]
            out[y, x] = any(mask[y + dy, x + dx] != mask[y, x] for dy, dx in around)
    return out


def literal_j(truth: np.ndarray, predicted: np.ndarray) -> float:
    union = (truth | predicted).sum()
    return 1.0 if union == 0 else (truth & predicted).sum() / union


def literal_f(truth: np.ndarray, predicted: np.ndarray, edges: Any = literal_boundary) -> float:
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    t, p = edges(truth), edges(predicted)
    kernel = disk(radius).astype(np.uint8)
    near_t, near_p = (cv2.dilate(e.astype(np.uint8), kernel) > 0 for e in (t, p))
    if p.sum() == 0 and t.sum() > 0:
        precision, recall = 1.0, 0.0
    elif p.sum() > 0 and t.sum() == 0:
        precision, recall = 0.0, 1.0
    elif p.sum() == 0 and t.sum() == 0:
        precision, recall = 1.0, 1.0
    else:
        precision, recall = (p & near_t).sum() / p.sum(), (t & near_p).sum() / t.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def fast_edges(mask: np.ndarray) -> np.ndarray:
    """literal_boundary by shifts, for pictures of real size."""
    e, s, se = (np.zeros_like(mask) for _ in range(3))
    e[:, :-1], s[:-1], se[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    out = (mask ^ e) | (mask ^ s) | (mask ^ se)
    out[-1] = mask[-1] ^ e[-1]
    out[:, -1] = mask[:, -1] ^ s[:, -1]
    out[-1, -1] = False
    return out


def scene(rng: np.random.Generator, height: int, width: int, n: int) -> np.ndarray:
    """Overlapping ellipses and some specks, often at the border."""
    ids = np.zeros((height, width), np.uint8)
    for i in range(1, n + 1):
        if rng.random() < 0.15:
            continue  # an object may be absent
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = tuple(int(a) for a in rng.integers(0, max(2, min(height, width) // 2), 2))
        cv2.ellipse(ids, centre, axes, float(rng.uniform(0, 180)), 0, 360, i, -1)
    specks = rng.random((height, width)) < 0.01
    ids[specks] = rng.integers(0, n + 1, int(specks.sum()))
    return ids


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_small_scenes_equal_the_literal_rendition(seed: int, height: int, width: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = scene(rng, height, width, n), scene(rng, height, width, n)
    j, f = dm.frame_scores(truth, predicted, n)
    for i in range(1, n + 1):
        assert j[i - 1] == pytest.approx(literal_j(truth == i, predicted == i), abs=1e-12)
        assert f[i - 1] == pytest.approx(literal_f(truth == i, predicted == i), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(480, 854), (200, 130), (720, 1280)]))
def test_large_scenes_equal_the_literal_rendition(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = scene(rng, *size, 3), scene(rng, *size, 3)
    j, f = dm.frame_scores(truth, predicted, 3)
    for i in range(1, 4):
        assert j[i - 1] == pytest.approx(literal_j(truth == i, predicted == i), abs=1e-12)
        assert f[i - 1] == pytest.approx(literal_f(truth == i, predicted == i, fast_edges), abs=1e-12)


@pytest.mark.parametrize("radius", [*range(1, 14), 20, 41, 70])
def test_dilation_is_that_of_the_library_disk(radius: int) -> None:
    """Points in the corners and at the sides included, where bits of one row must not reach the next."""
    rng = np.random.default_rng(radius)
    points = (rng.random((90, 120)) < 0.002).astype(np.uint8)
    points[0, 0] = points[-1, -1] = points[0, -1] = points[-1, 0] = points[40, 119] = points[43, 0] = 1
    grown = bits.near(bits.to_words([bits.pack(points), bits.pack(points[::-1])], radius), radius)
    found = np.unpackbits(grown.view(np.uint8), axis=2, bitorder="little")[:, :, :120]
    for of_map, of in zip(found, (points, points[::-1]), strict=True):
        assert np.array_equal(of_map, cv2.dilate(of, disk(radius).astype(np.uint8)))


def test_empty_and_full_masks() -> None:
    none, full, some = np.zeros((30, 40), bool), np.ones((30, 40), bool), np.zeros((30, 40), bool)
    some[5:15, 5:15] = True
    for truth, predicted in [(a, b) for a in (none, full, some) for b in (none, full, some)]:
        expected = literal_j(truth, predicted), literal_f(truth, predicted)
        assert dm.object_scores(truth, predicted, 1) == pytest.approx(expected, abs=1e-12)
    assert dm.object_scores(some, some, 1) == (1.0, 1.0)
    assert dm.object_scores(some, none, 1) == (0.0, 0.0)


def test_tolerance_of_known_sizes() -> None:
    assert (dm.tolerance_px(480, 854), dm.tolerance_px(480, 880)) == (8, 9)


def test_object_count_ignores_void() -> None:
    assert dm.object_count(np.array([[0, 3, 255]], np.uint8)) == 3
    assert dm.object_count(np.array([[0, 255]], np.uint8)) == 0


def literal_statistics(values: np.ndarray) -> tuple[Any, Any, Any]:
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.uint8)
    bins = [values[ends[i] : ends[i + 1] + 1] for i in range(4)]
    return np.nanmean(values), np.nanmean(values > 0.5), np.nanmean(bins[0]) - np.nanmean(bins[3])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=250))
def test_statistics_equal_the_official_ones_up_to_256_frames(values: list[float]) -> None:
    assert dm.statistics(np.array(values)) == pytest.approx(literal_statistics(np.array(values)), abs=1e-12)


@pytest.mark.parametrize("n", [256, 257, 300, 341, 342, 400, 1000])
def test_eight_bit_frame_numbers_of_long_clips(n: int) -> None:
    """The official cast, and its sums as NumPy 1 made them; a quarter that wraps may hold no frame."""
    values = np.random.default_rng(n).random(n)
    ends = (np.round(np.linspace(1, n, 5) + 1e-10) - 1).astype(np.int64).astype(np.uint8).tolist()
    bins = [values[ends[i] : ends[i + 1] + 1] for i in (0, 3)]
    official = bins[0].mean() - bins[1].mean() if len(bins[1]) else math.nan
    assert dm.statistics(values, eight_bits=True).decay == pytest.approx(official, abs=1e-12, nan_ok=True)


def test_decay_of_a_long_clip_does_not_wrap() -> None:
    values = np.linspace(1, 0, 1000)
    assert dm.statistics(values).decay == pytest.approx(values[:251].mean() - values[749:].mean(), abs=1e-3)


def test_real_masks() -> None:
    """Masks of DAVIS against those three frames later."""
    root = real_data("davis2016_val") / "Annotations/480p"
    for sequence in sorted(root.iterdir()):
        masks = [np.array(Image.open(file)) for file in sorted(sequence.glob("*.png"))[::6]]
        for truth, predicted in itertools.pairwise(masks):
            j, f = dm.frame_scores(truth, predicted, 1)
            assert j[0] == pytest.approx(literal_j(truth == 1, predicted == 1), abs=1e-12)
            assert f[0] == pytest.approx(literal_f(truth == 1, predicted == 1, fast_edges), abs=1e-12)


def test_real_masks_of_two_objects() -> None:
    """PUMaVOS, each annotated frame against the next: the second object is absent at first and touches the border."""
    root = real_data("pumavos") / "Annotations/480p"
    for sequence in sorted(root.iterdir()):
        masks = [np.array(Image.open(file)) for file in sorted(sequence.glob("*.png"))]
        for truth, predicted in itertools.pairwise(masks[:: max(1, len(masks) // 6)]):
            j, f = dm.frame_scores(truth, predicted, 2)
            for i in (1, 2):
                assert j[i - 1] == pytest.approx(literal_j(truth == i, predicted == i), abs=1e-12)
                assert f[i - 1] == pytest.approx(literal_f(truth == i, predicted == i, fast_edges), abs=1e-12)


def test_real_multi_object_tracks() -> None:
    """SA-V's masklets, several objects a frame, against the next annotated frame."""
    content = json.loads((real_data("sav_masklets") / "sav_000001_manual.json").read_text())
    for now, later in zip(content["masklet"][:12:4], content["masklet"][1:13:4], strict=True):
        truth, predicted = (np.stack([decode_rle(rle) for rle in step]) for step in (now, later))
        for t, p in zip(truth, predicted, strict=True):
            expected = literal_j(t, p), literal_f(t, p, fast_edges)
            assert dm.object_scores(t, p, dm.tolerance_px(*t.shape)) == pytest.approx(expected, abs=1e-12)


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """COCO's compressed run lengths: 5 bits a character, sign in the last, runs from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for char in rle["counts"]:
        code = ord(char) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    height, width = rle["size"]
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)
