"""LOST against a rendition of loops, CorLoc against a loop over pixels, and the whole task on a small benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import StageError
from components.evaluate import corloc
from components.evaluate.layouts.boxes import read_pictures
from components.evaluate.lost import discover
from components.evaluate.score_cli import score_main
from components.evaluate.tasks import discovery
from tests.evaluate.small import evaluate, write_image
from tests.evaluate.small_boxes import OBJECT, XML, voc_boxes


def naive_lost(features: np.ndarray, k: int) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Seed, degrees and mask, patch by patch from the paper's section 3 (strict signs, no self-likeness)."""
    h, w, _ = features.shape
    cells = [(y, x) for y in range(h) for x in range(w)]
    degree = {p: sum(features[p] @ features[q] > 0 for q in cells if q != p) for p in cells}
    lowest = sorted(cells, key=lambda p: (degree[p], cells.index(p)))[:k]
    seed = lowest[0]
    companions = [p for p in lowest if features[p] @ features[seed] > 0]
    like = {p for p in cells if sum(features[p] @ features[s] for s in companions) > 0}
    piece, border = {seed}, [seed]
    while border:
        y, x = border.pop()
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if q in like and q not in piece:
                piece.add(q)
                border.append(q)
    mask = np.array([[(y, x) in piece for x in range(w)] for y in range(h)])
    return seed, np.array([[degree[y, x] for x in range(w)] for y in range(h)]), mask


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 7), st.integers(1, 30))
def test_lost(seed: int, h: int, w: int, k: int) -> None:
    features = np.random.default_rng(seed).integers(-3, 4, (h, w, 4)).astype(np.float32)  # exact products
    if not features.any(axis=-1).all():
        features[..., 0] += 7  # no zero feature: the paper has none
    found = discover(torch.from_numpy(features), 5, (h * 5 - 2, w * 5 - 1), k)
    cell, degrees, mask = naive_lost(features, k)
    assert found.seed == cell
    np.testing.assert_array_equal(found.degrees, degrees)
    np.testing.assert_array_equal(found.mask, mask)
    ys, xs = np.nonzero(mask)
    x1, y1 = min((xs.max() + 1) * 5, w * 5 - 1), min((ys.max() + 1) * 5, h * 5 - 2)
    assert found.box == (xs.min() * 5, ys.min() * 5, x1, y1)


def test_lost_finds_a_planted_object() -> None:
    """Patches of the object are like each other and unlike the ground; a second, smaller piece of it is left out."""
    features = torch.zeros(10, 12, 3)
    features[..., 0], features[2:6, 3:8, 0], features[9, 11, 0] = 1, -1, -1
    features[2:6, 3:8, 1] = 0.5
    found = discover(features, 16, (160, 190), 100)
    assert found.box == (48, 32, 128, 96) and found.mask.sum() == 20


def naive_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """By counting pixels."""
    pixels = [{(x, y) for x in range(x0, x1) for y in range(y0, y1)} for x0, y0, x1, y1 in (a, b)]
    either = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / either if either else 0.0


boxes = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=40, deadline=None)
@given(boxes, st.lists(boxes, min_size=1, max_size=4))
def test_corloc_by_loop(box: tuple[int, ...], truth: list[tuple[int, ...]]) -> None:
    expected = [naive_iou(box, other) for other in truth]
    np.testing.assert_allclose(corloc.overlaps(box, np.array(truth, float)), expected)
    (row,) = corloc.corloc_rows({"a": box}, {"a": truth, "b": []}, 0.5)
    assert row["found"] == any(value >= 0.5 for value in expected)


def test_an_iou_of_one_half_is_a_hit() -> None:
    rows = corloc.corloc_rows({"a": (0, 0, 4, 2), "b": (0, 0, 4, 2)}, {"a": [(0, 0, 4, 4)], "b": [(0, 0, 4, 5)]}, 0.5)
    assert [row["found"] for row in rows] == [True, False]
    assert corloc.figures(rows) == {"corloc": 0.5, "mean_best_iou": pytest.approx(0.45)}
    with pytest.raises(StageError, match="no predicted box for picture a"):
        corloc.corloc_rows({}, {"a": [(0, 0, 1, 1)]}, 0.5)
    with pytest.raises(StageError, match="no picture shows an object"):
        corloc.corloc_rows({}, {"a": []}, 0.5)


def test_the_task(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    root = voc_boxes(tmp_path / "b")
    assert evaluate(tmp_path, "discovery", model, root) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["primary"] == "corloc" and "4 pictures, 4 objects" in document["data_variant"]
    assert document["notes"] == ["1 pictures without an object are left out"]
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["p0", "p1", "p2", "p4"]
    assert all(0 <= row["x0"] < row["x1"] <= 61 and 0 <= row["y0"] < row["y1"] <= 45 for row in rows)
    with Image.open(tmp_path / "out/discovery.png") as picture:
        assert picture.width > 600
    argv = ["score", "--gt", str(root), "--pred", str(tmp_path / "out/predictions.json"), "--json"]
    out = tmp_path / "score.json"
    assert score_main("discovery", "", discovery._arguments, discovery._score, [*argv, str(out)]) == 0
    assert json.loads(out.read_text())["metrics"] == document["metrics"]
    hard = [*argv, str(out), "--drop-hard"]
    assert score_main("discovery", "", discovery._arguments, discovery._score, hard) == 0
    assert json.loads(out.read_text())["n"] == 3
    (tmp_path / "out/predictions.json").write_text('{"p0": [3, 2, 1, 5]}')
    assert score_main("discovery", "", discovery._arguments, discovery._score, [*argv, str(out)]) == 2
    assert "the box of p0 is no [x0, y0, x1, y1]" in capsys.readouterr().err


def test_resumes_with_the_same_bytes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = voc_boxes(tmp_path / "b", 7)
    assert evaluate(tmp_path, "discovery", model, root, out="whole") == 0
    real, calls = discovery.look, []

    def stop_later(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(discovery, "look", stop_later)
    assert evaluate(tmp_path, "discovery", model, root) == 130
    calls.clear()
    monkeypatch.setattr(discovery, "look", lambda *args: (calls.append(1), real(*args))[1])
    assert evaluate(tmp_path, "discovery", model, root) == 0
    assert len(calls) == 4 + 4  # of six pictures two were kept; four are drawn
    for name in ("predictions.json", "details.parquet", "discovery.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", "not readable as XML, no element found|not readable as XML, unclosed"),
        ("<objects/>", "its root is <objects>, not <annotation>"),
        (XML.format("<object><name>cat</name></object>"), "object 1 has no whole box"),
        (XML.format(OBJECT.format(0, 9, 1, 3, 4)), "object 1 has an impossible box"),
        (XML.format(OBJECT.format(0, "nan", 1, 3, 4)), "object 1 has an impossible box"),
        (
            '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>',
            "it declares a document type, which VOC's files never do",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "it declares a document type"),
    ],
)
def test_broken_annotations(content: str, message: str, tmp_path: Path) -> None:
    root = voc_boxes(tmp_path, 1)
    (root / "Annotations/p0.xml").write_text(content)
    with pytest.raises(StageError, match=message):
        read_pictures(root, "voc", "trainval", None, True, False)


def test_broken_voc_layouts(tmp_path: Path) -> None:
    root = voc_boxes(tmp_path, 2)
    (root / "Annotations/p1.xml").unlink()
    with pytest.raises(StageError, match="p1 is listed but has no annotation"):
        read_pictures(root, "voc", "trainval", None, True, False)
    (root / "JPEGImages/p0.jpg").unlink()
    with pytest.raises(StageError, match="p0 is listed but has no image"):
        read_pictures(root, "voc", "trainval", None, True, False)
    with pytest.raises(StageError, match=r"no such list: .*there are: trainval"):
        read_pictures(root, "voc", "test", None, True, False)
    (root / "ImageSets/Main").rename(root / "ImageSets/Other")
    with pytest.raises(StageError, match="not in Pascal VOC layout, no ImageSets/Main folder"):
        read_pictures(root, "voc", "trainval", None, True, False)


def test_boxes_count_pixels_from_one_and_include_the_last(tmp_path: Path) -> None:
    root = voc_boxes(tmp_path, 1)
    (root / "Annotations/p0.xml").write_text(XML.format(OBJECT.format(1, 1, 1, 61, 45)))
    (picture,) = read_pictures(root, "voc", "trainval", None, True, False)
    assert picture.boxes == [(0, 0, 61, 45)]
    (picture,) = read_pictures(root, "voc", "trainval", None, True, True)
    assert picture.boxes == []


def test_coco_boxes_and_a_list(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    for name in names:
        write_image(tmp_path / "train2014" / name, np.zeros((8, 9, 3), np.uint8))
    notes = [
        {"id": 1, "image_id": 5, "category_id": 3, "bbox": [0.4, 1.6, 2.2, 3.0], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 8], "iscrowd": 1},
    ]
    images = [{"id": 5 + i, "file_name": n, "height": 8, "width": 9} for i, n in enumerate(names)]
    document = {"images": images, "annotations": notes, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(document))
    first, second = read_pictures(tmp_path, "coco", "train2014", None, True, False)
    assert first.boxes == [(0, 2, 3, 5)] and second.boxes == []
    (exact, _) = read_pictures(tmp_path, "coco", "train2014", None, False, False)
    assert exact.boxes == [pytest.approx((0.4, 1.6, 2.6, 4.6))]
    (tmp_path / "some.txt").write_text("train2014/b.jpg\n")
    assert [p.name for p in read_pictures(tmp_path, "coco", "train2014", "some.txt", True, False)] == ["b.jpg"]
    (tmp_path / "some.txt").write_text("c.jpg\n")
    with pytest.raises(StageError, match=r"the list names c.jpg, which the annotations do not know"):
        read_pictures(tmp_path, "coco", "train2014", "some.txt", True, False)
