"""Boxes, polygons, void bands and palettes against naive renditions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import points_in_poly

from components.download.world.pictures import davis_palette, voc_palette
from components.download.world.render import Frame, Seen
from components.download.world.truth import instances, polygons, relabel, with_void

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.booleans())


def rasterise(found: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """How many polygons hold each pixel's centre (even-odd rule)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    count = np.zeros(len(centres), int)
    for polygon in found:
        count += points_in_poly(centres, np.reshape(polygon, (-1, 2)))
    return count.reshape(shape)


@given(masks)
@settings(max_examples=150, deadline=None)
def test_polygons_hold_exactly_the_mask(mask: np.ndarray) -> None:
    found = polygons(mask)
    assert all(len(polygon) >= 6 for polygon in found)
    np.testing.assert_array_equal(rasterise(found, mask.shape), mask.astype(int))


def test_polygons_of_a_ring_have_no_hole() -> None:
    y, x = np.mgrid[:40, :50]
    radius = np.hypot(x - 24, y - 18)
    ring = (radius < 16) & (radius > 7)
    np.testing.assert_array_equal(rasterise(polygons(ring), ring.shape), ring.astype(int))


def test_polygons_count_from_the_given_corner() -> None:
    mask = np.ones((3, 4), bool)
    (polygon,) = polygons(mask, 10, 20)
    points = np.reshape(polygon, (-1, 2))
    assert points.min(axis=0).tolist() == [10.25, 20.25] and points.max(axis=0).tolist() == [13.75, 22.75]


@given(arrays(np.uint16, (9, 11), elements=st.integers(0, 3)), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_void_lies_where_ids_differ(ids: np.ndarray, half: int) -> None:
    labels = ids.astype(np.uint8)
    expected = labels.copy()
    for y in range(9):
        for x in range(11):
            window = ids[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            if (window != ids[y, x]).any() or len(np.unique(window)) > 1:
                expected[y, x] = 255
    np.testing.assert_array_equal(with_void(labels, ids, half), expected)


@given(arrays(np.uint16, (8, 9), elements=st.integers(0, 4)), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_boxes_are_the_extents_of_the_masks(ids: np.ndarray, min_px: int) -> None:
    seen = tuple(Seen(n, "car", 100, None) for n in (3, 1, 2))  # 4 is nobody's
    blank = np.zeros(ids.shape, np.uint8)
    frame = Frame(np.zeros((*ids.shape, 3), np.uint8), ids, blank, blank, seen)
    found = {instance.seen.number: instance for instance in instances(frame, min_px)}
    assert list(found) == sorted(found)
    for number in (1, 2, 3):
        points = [(y, x) for y in range(8) for x in range(9) if ids[y, x] == number]
        assert (number in found) == (len(points) >= min_px)
        if number in found:
            rows, columns = zip(*points, strict=True)
            assert found[number].box == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
            assert found[number].area == len(points)
            assert found[number].visible == len(points) / 100
            edge = min(columns) == 0 or min(rows) == 0 or max(columns) == 8 or max(rows) == 7
            assert found[number].touches_edge(ids.shape) == edge


def test_relabel_drops_what_is_not_named() -> None:
    ids = np.array([[0, 1, 2], [300, 2, 1]], np.uint16)
    np.testing.assert_array_equal(relabel(ids, {2: 7, 300: 9, 999: 1}), [[0, 0, 7], [9, 7, 0]])


def test_palettes() -> None:
    voc, davis = voc_palette(), davis_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 9: (192, 0, 0),
             15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}  # fmt: skip
    for index, colour in known.items():
        assert tuple(voc[index]) == colour
    assert tuple(davis[9]) == (191, 0, 0) and tuple(davis[21]) == (128, 64, 128) and tuple(davis[22]) == (22, 22, 22)
    assert tuple(davis[255]) == (255, 255, 255) and tuple(davis[15]) == (191, 128, 128)
