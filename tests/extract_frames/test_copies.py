"""Frames that are JPEG files of the wanted size are copied: same rows as by decoding, and the files' own bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.common.jpeg import plain_size
from components.extract_frames import copies
from tests.extract_frames.clips import Extraction

COLUMNS = ("video", "frame", "pts_s", "height", "width", "cut")


def encoded(number: int, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(stream, "JPEG", quality=85, **options)
    return stream.getvalue()


def folder(extraction: Extraction, n: int = 13, name: str = "walk", **options: Any) -> list[bytes]:
    (extraction.videos / name).mkdir(parents=True)
    made = [encoded(number, **options) for number in range(n)]
    for number, data in enumerate(made):
        (extraction.videos / name / f"{number:05d}.jpg").write_bytes(data)
    return made


def pictures(store: Any) -> list[bytes]:
    rows = store.frames.select(["shard", "offset", "size"]).to_pylist()
    return [store.read(**row) for row in rows]


@pytest.mark.parametrize(
    "params",
    [
        {"fps": 24, "source_fps": 24},
        {"fps": 5, "source_fps": 12.5},
        {"fps": 3, "source_fps": 23.976, "last_frame": True},
        {"mode": "every_s", "every_s": 0.4, "source_fps": 10},
        {"mode": "count", "count": 5, "source_fps": 2},
        {"fps": 50, "source_fps": 4, "upscale": True},
    ],
    ids=str,
)
def test_the_same_rows_as_by_decoding_and_the_files_own_bytes(extraction, monkeypatch, params) -> None:
    made = folder(extraction)
    ours = extraction.store(**params)
    taken = pictures(ours)
    found, videos = ours.frames.select(COLUMNS).to_pylist(), ours.videos.to_pylist()
    assert taken == [data for data in made if data in taken] and len(taken) == len(found) > 2
    monkeypatch.setattr(copies, "copied", lambda *_: None)
    extraction.place = extraction.root / "decoded"
    decoded = extraction.store(**params, quality=3)  # another cache
    assert pictures(decoded) != taken
    assert decoded.frames.select(COLUMNS).to_pylist() == found
    for row, other in zip(videos, decoded.videos.to_pylist(), strict=True):
        assert row.pop("fps") == pytest.approx(other.pop("fps"), rel=1e-5) and row == other


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({"size": (80, 60)}, {}),
        ({}, {"upscale": True, "short_side_px": 50}),
        ({}, {"cuts": {}}),
        ({"progressive": True}, {}),
        ({"mode": "L"}, {}),
        ({"exif": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"}, {}),
    ],
    ids=["larger", "smaller", "cuts", "progressive", "grey", "camera"],
)
def test_what_has_to_be_decoded_is_decoded(extraction: Extraction, options: Any, params: Any) -> None:
    made = folder(extraction, 3, **options)
    taken = pictures(extraction.store(**{"fps": 4, "source_fps": 4, **params}))
    assert len(taken) == 3 and not set(taken) & set(made)


def test_one_that_is_cut_short_or_of_another_size_sends_all_to_the_decoder(extraction: Extraction) -> None:
    folder(extraction, 4, "short")
    file = extraction.videos / "short/00002.jpg"
    file.write_bytes(file.read_bytes()[:-40])
    made = folder(extraction, 4, "whole")
    store = extraction.store(fps=4, source_fps=4)
    assert pictures(store)[4:] == made and not set(pictures(store)[:4]) & set(made)


def test_plain_pictures() -> None:
    assert plain_size(encoded(0)) == (48, 64)
    assert plain_size(encoded(0, subsampling=0)) == (48, 64)
    assert plain_size(encoded(0, mode="CMYK")) is None
    assert plain_size(encoded(0)[:-1]) is None and plain_size(b"") is None and plain_size(b"\x89PNG") is None
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    plain = encoded(0)
    assert plain_size(plain[:2] + adobe + b"\x00" + plain[2:]) is None  # RGB
    assert plain_size(plain[:2] + adobe + b"\x01" + plain[2:]) == (48, 64)


def test_a_file_that_may_not_be_there_any_more(extraction: Extraction, monkeypatch: Any, capsys: Any) -> None:
    folder(extraction, 3)

    def gone(*_: Any) -> None:
        raise FileNotFoundError(Path("walk/00001.jpg"))

    monkeypatch.setattr(copies, "copied", gone)
    assert extraction(fps=4, source_fps=4) == 2
    assert "the file changed while it was read" in capsys.readouterr().err
