"""Cutting a stream of JPEGs into pictures."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.jpeg import jpeg_size, split_jpegs


def picture(height, width, comment=b"", seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment if comment else b""
    return data[:2] + segment + data[2:]


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data, step):
        self.data, self.step, self.at = data, step, 0

    def read(self, size=-1):
        piece = self.data[self.at : self.at + self.step]
        self.at += len(piece)
        return piece


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.binary(max_size=40)), max_size=5), st.integers(1, 700)
)
def test_pictures_come_out_as_they_went_in(shapes, step):
    pictures = [picture(h, w, comment, seed) for seed, (h, w, comment) in enumerate(shapes)]
    assert list(split_jpegs(Trickle(b"".join(pictures), step))) == pictures


def test_end_and_start_markers_inside_a_comment_do_not_cut():
    tricky = picture(8, 9, b"\xff\xd9\xff\xd8\xff\xda")
    assert list(split_jpegs(io.BytesIO(tricky * 3))) == [tricky] * 3


@settings(deadline=None)
@given(st.integers(1, 400))
def test_an_unfinished_picture_at_the_end_is_dropped(missing):
    whole = picture(8, 8)
    assert list(split_jpegs(io.BytesIO(whole + picture(9, 9)[:-missing]))) == [whole]


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(100), b"\xff\xd8\x00\x00\x00\x00\x00"])
def test_something_else_is_an_error(data):
    with pytest.raises(ValueError, match="not a JPEG"):
        list(split_jpegs(io.BytesIO(data)))
    with pytest.raises(ValueError, match="not a JPEG"):
        jpeg_size(data)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.binary(max_size=30))
def test_size_is_height_and_width(height, width, comment):
    assert jpeg_size(picture(height, width, comment)) == (height, width)
