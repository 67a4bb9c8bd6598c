"""Fingerprints survive what happens to copies, tell scenes apart, and near ones are all found."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dct

from components.index import fingerprint as module
from components.index.config import FingerprintParams
from components.index.fingerprint import FINGERPRINT, UNREADABLE, WORDS, fingerprint, near

from .conftest import jpeg, picture, shifted

LIMIT = FingerprintParams().max_distance_bits
TEXTURE = FingerprintParams().min_texture
VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"


def bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a["hash"] ^ b["hash"]).sum())


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def copies(image: np.ndarray) -> dict[str, bytes]:
    height, width = image.shape[:2]
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    squeezed = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    bright = np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8)
    return {
        "png": png(image),
        "quality 30": jpeg(image, 30),
        "half size, quality 40": jpeg(half, 40),
        "another aspect": jpeg(squeezed, 70),
        "brighter": jpeg(bright, 80),
    }


def test_copies_are_near_and_other_scenes_are_far() -> None:
    scenes = [picture(seed, (256, 340)) for seed in range(12)]
    prints = [fingerprint(jpeg(scene)) for scene in scenes]
    for scene, original in zip(scenes, prints, strict=True):
        for how, copy in copies(scene).items():
            assert bits(original, fingerprint(copy)) <= LIMIT - 8, how
    apart = [bits(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    assert min(apart) > 2 * LIMIT


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real clips are not on this machine")
def test_frames_of_real_clips() -> None:
    prints, owner = [], []
    for number, file in enumerate(sorted(VIDEOS.glob("*.mp4"))):
        capture = cv2.VideoCapture(str(file))
        for second in (0, 4):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * second)
            ok, bgr = capture.read()
            assert ok, file
            image = np.ascontiguousarray(bgr[:, :, ::-1])
            prints.append(fingerprint(jpeg(image)))
            owner.append(number)
            for how, copy in copies(image).items():
                assert bits(prints[-1], fingerprint(copy)) <= LIMIT, (file.name, second, how)
    assert len(set(owner)) == 6
    between = [bits(a, b) for i, a in enumerate(prints) for j, b in enumerate(prints[:i]) if owner[i] != owner[j]]
    assert min(between) > LIMIT + 20


def test_bits_are_the_signs_of_the_low_frequencies() -> None:
    image = picture(5, (32, 32))
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)
    coefficients = dct(dct(grey, axis=0, norm="ortho"), axis=1, norm="ortho")
    made = fingerprint(png(image))
    whole = "".join(f"{int(word):064b}"[::-1] for word in made["hash"])
    for place, (row, column) in enumerate(sorted(np.ndindex(16, 16), key=lambda rc: (sum(rc), rc[1]))):
        expected = coefficients[row, column] > 0 and (row, column) != (0, 0)
        assert whole[place] == str(int(expected)), (row, column)
    low = np.abs(coefficients[:16, :16]).ravel()[1:]
    assert made["texture"] == pytest.approx(np.median(low), rel=1e-6)
    assert made["luma_mean"] == pytest.approx(grey.mean(), rel=1e-6)
    assert made["luma_std"] == pytest.approx(grey.std(), rel=1e-6)


def test_empty_pictures_have_no_texture() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((256, 340, 3), 128, np.uint8)
    dark = rng.integers(0, 6, (256, 340, 3)).astype(np.uint8)  # the noise of a sensor in the dark
    ramp = np.repeat(np.linspace(0, 255, 340).astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    for image in (flat, dark, ramp):
        assert fingerprint(jpeg(image))["texture"] < TEXTURE
    assert fingerprint(jpeg(picture(1)))["texture"] > 3 * TEXTURE


@pytest.mark.parametrize("blob", [b"", b"no image", jpeg(picture(0))[:300], b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_image_is_marked(blob: bytes) -> None:
    assert fingerprint(blob)["texture"] == UNREADABLE


def test_a_picture_of_absurd_size_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    assert fingerprint(jpeg(picture(0, (80, 80))))["texture"] == UNREADABLE
    assert fingerprint(jpeg(picture(0, (60, 80))))["texture"] > 0


def test_a_turned_photograph_is_turned_back() -> None:
    upright = picture(3, (120, 160))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(stream, "JPEG", quality=90, exif=exif)
    assert bits(fingerprint(jpeg(upright)), fingerprint(stream.getvalue())) <= 12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 40), st.integers(0, 100))
def test_near_equals_a_double_loop(seed: int, n_queries: int, n_base: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, (n_base, WORDS), dtype=np.uint64)
    queries = rng.integers(0, 2**64, (n_queries, WORDS), dtype=np.uint64)
    for query in range(0, n_queries if n_base else 0, 2):  # every other query is a copy with some bits turned
        queries[query] = base[rng.integers(n_base)]
        for bit in rng.integers(0, 256, rng.integers(0, 60)):
            queries[query, bit // 64] ^= np.uint64(1 << int(bit) % 64)
    found = near(queries, base, limit)
    expected = []
    for q, one in enumerate(queries.tolist()):
        for b, other in enumerate(base.tolist()):
            distance = sum((x ^ y).bit_count() for x, y in zip(one, other, strict=True))
            if distance <= limit:
                expected.append((q, b, distance))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**64, (50, WORDS), dtype=np.uint64)
    queries = base[rng.integers(0, 50, 33)]
    whole = near(queries, base, 40)
    monkeypatch.setattr(module, "QUERIES", 4)
    monkeypatch.setattr(module, "BASE", 7)
    for left, right in zip(whole, near(queries, base, 40), strict=True):
        np.testing.assert_array_equal(left, right)
    assert len(whole.query) >= 33


def test_a_pan_leaves_the_neighbourhood() -> None:
    scene = picture(9, (256, 340))
    assert bits(fingerprint(jpeg(scene)), fingerprint(jpeg(shifted(scene, 40)))) > LIMIT
    assert FINGERPRINT.itemsize == 8 * WORDS + 12
