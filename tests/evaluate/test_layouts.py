"""Benchmark readers: what they find, and what they say when something is missing or disagrees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.common.errors import StageError
from components.evaluate.images import ahead, pascal_palette, read_index, read_rgb, write_index
from components.evaluate.layouts.davis import read_davis
from components.evaluate.layouts.imagenet import read_imagenet
from components.evaluate.layouts.voc import read_voc
from tests.evaluate.small import davis, imagenet, real_data, voc, write_image, write_labels


def test_davis(tmp_path: Path) -> None:
    sequences = read_davis(davis(tmp_path))
    assert [(s.name, len(s.frames), len(s.masks), s.height, s.width) for s in sequences] == [
        ("a", 5, 5, 36, 52),
        ("b", 5, 5, 36, 52),
    ]
    shutil.rmtree(tmp_path / "ImageSets")
    assert read_davis(tmp_path) == sequences


def test_davis_without_the_resolution_level(tmp_path: Path) -> None:
    """As YouTube-VOS and MOSE trees are."""
    davis(tmp_path / "x")
    shutil.copytree(tmp_path / "x/JPEGImages/480p", tmp_path / "y/JPEGImages")
    shutil.copytree(tmp_path / "x/Annotations/480p", tmp_path / "y/Annotations")
    assert [s.name for s in read_davis(tmp_path / "y")] == ["a", "b"]
    shutil.rmtree(tmp_path / "y/JPEGImages/b")
    shutil.rmtree(tmp_path / "y/Annotations/b")
    assert [s.name for s in read_davis(tmp_path / "y")] == ["a"]


def test_davis_disagreements(tmp_path: Path) -> None:
    root = davis(tmp_path)
    masks = root / "Annotations/480p/a"
    (masks / "00003.png").unlink()
    with pytest.raises(StageError, match="masks and frames disagree: sequence a has 5 frames and 4 masks"):
        read_davis(root)
    assert set(read_davis(root, sparse=True)[0].masks) == {0, 1, 2, 4}
    (masks / "00002.png").rename(masks / "00009.png")
    with pytest.raises(StageError, match=r"00009.png has no frame"):
        read_davis(root, sparse=True)
    (masks / "00009.png").unlink()
    (masks / "00000.png").unlink()
    with pytest.raises(StageError, match="the first frame of sequence a has no mask"):
        read_davis(root, sparse=True)


def test_davis_sizes_and_missing_parts(tmp_path: Path) -> None:
    root = davis(tmp_path)
    write_labels(root / "Annotations/480p/b/00002.png", np.zeros((36, 50)))
    with pytest.raises(StageError, match=r"sizes disagree in sequence b: 00002.png is 50x36, its first frame 52x36"):
        read_davis(root)
    with pytest.raises(StageError, match=r"no such list: .*2016/val.txt"):
        read_davis(root, "2016/val")
    with pytest.raises(StageError, match="there are: val"):
        read_davis(root, "2017/test")
    (root / "ImageSets/2017/val.txt").write_text("a\nzebra\n")
    with pytest.raises(StageError, match="sequence zebra is listed but has no folder"):
        read_davis(root)
    (root / "ImageSets/2017/val.txt").write_text("a\n\na\n")
    with pytest.raises(StageError, match="names 'a' twice"):
        read_davis(root)
    (root / "ImageSets/2017/val.txt").write_text("\n")
    with pytest.raises(StageError, match="the list is empty"):
        read_davis(root)
    shutil.rmtree(root / "Annotations")
    with pytest.raises(StageError, match="not in DAVIS layout, no Annotations folder"):
        read_davis(root)


def test_davis_real() -> None:
    sequences = read_davis(real_data("davis2016_val"))
    assert len(sequences) == 5 and sum(len(s.frames) for s in sequences) == 249
    with pytest.raises(StageError, match="masks and frames disagree: sequence caps has 87 frames and 5 masks"):
        read_davis(real_data("pumavos"), "2017/sparse")
    (caps,) = read_davis(real_data("pumavos"), "2017/sparse", sparse=True)
    assert sorted(caps.masks) == [0, 14, 33, 43, 66]


def test_imagenet(tmp_path: Path) -> None:
    data = read_imagenet(imagenet(tmp_path, n_classes=3))
    assert data.classes == ["class0", "class1", "class2"]
    assert data.train.labels == [0] * 4 + [1] * 4 + [2] * 4
    assert (len(data.held_out.files), data.held_out_name) == (6, "val")
    (tmp_path / "val").rename(tmp_path / "test")
    shutil.rmtree(tmp_path / "test/class1")
    assert read_imagenet(tmp_path).held_out.labels == [0, 0, 2, 2]


def test_imagenet_disagreements(tmp_path: Path) -> None:
    root = imagenet(tmp_path, n_classes=3)
    (root / "val/class0").rename(root / "val/klass0")
    with pytest.raises(StageError, match="class 'klass0' has no training pictures, did you mean 'class0'"):
        read_imagenet(root)
    (root / "val/klass0").rename(root / "val/class0")
    for file in (root / "train/class1").iterdir():
        file.unlink()
    with pytest.raises(StageError, match="class 'class1' has no pictures"):
        read_imagenet(root)
    shutil.rmtree(root / "train/class1")
    shutil.rmtree(root / "train/class2")
    with pytest.raises(StageError, match="needs two classes or more, found 1"):
        read_imagenet(root)
    shutil.rmtree(root / "val")
    with pytest.raises(StageError, match=r"no val \(or test\) folder"):
        read_imagenet(root)


def test_imagenet_real() -> None:
    data = read_imagenet(real_data("clothing10_cc0"))
    assert (len(data.classes), len(data.train.files), len(data.held_out.files), data.held_out_name) == (
        10,
        90,
        40,
        "test",
    )


def test_voc(tmp_path: Path) -> None:
    train = read_voc(voc(tmp_path), "train")
    assert len(train.names) == len(train.images) == len(train.masks) == 6
    with pytest.raises(StageError, match="no SegmentationClassAug folder"):
        read_voc(tmp_path, "train", "SegmentationClassAug")
    with pytest.raises(StageError, match=r"no such list: .*trainaug.txt \(there are: train, val\)"):
        read_voc(tmp_path, "trainaug")
    write_labels(tmp_path / "SegmentationClass/train2.png", np.zeros((9, 9)))
    with pytest.raises(StageError, match="sizes disagree: image train2 is 56x48, its mask 9x9"):
        read_voc(tmp_path, "train")
    (tmp_path / "SegmentationClass/train1.png").unlink()
    with pytest.raises(StageError, match="masks and images disagree: train1 has an image and no mask"):
        read_voc(tmp_path, "train")
    (tmp_path / "JPEGImages/train0.jpg").unlink()
    with pytest.raises(StageError, match="train0 is listed but has no image"):
        read_voc(tmp_path, "train")


def test_palette_is_pascals() -> None:
    palette = pascal_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 20: (0, 64, 128)}
    for index, colour in {**known, 255: (224, 224, 192)}.items():
        assert tuple(palette[3 * index : 3 * index + 3]) == colour


def test_pictures(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_index(tmp_path / "deep/a.png", labels)
    assert np.array_equal(read_index(tmp_path / "deep/a.png"), labels)
    write_image(tmp_path / "rgb.png", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(StageError, match="must be an indexed or grey picture, this one is RGB"):
        read_index(tmp_path / "rgb.png")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(StageError, match=r"its content is no picture: .*text.jpg"):
        read_rgb(tmp_path / "text.jpg")
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(StageError, match=r"picture not readable, .*cut.jpg"):
        read_rgb(tmp_path / "cut.jpg")


def test_ahead_keeps_order_and_distance() -> None:
    """Results come in order, and no more than a few items are started before they are asked for."""
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = ahead(work, range(100), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) <= 3 + 2 * 2 + 1
    assert list(results) == [i * i for i in range(3, 100)]
