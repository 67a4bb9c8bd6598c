"""Layouts of single images, read back by naive readers and held against the id buffer of the same frames."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from skimage.measure import points_in_poly

from components.download.world.classes import ADE_NAMES, BY_NAME, GROUNDS, KINDS, NAMES
from components.download.world.clip import Clip
from components.download.world.layouts import imagenet
from components.download.world.render import Frame
from tests.download.small_world import PARAMS, by_number, close, frames, lines, naive_void, read_png


def test_voc(world: Path) -> None:
    root = world / "voc"
    lists = {s: lines(root / "ImageSets" / "Segmentation" / f"{s}.txt") for s in ("train", "val", "trainval")}
    assert lists == {s: lines(root / "ImageSets" / "Main" / f"{s}.txt") for s in lists}  # detection's lists
    assert len(lists["train"]) == len(lists["val"]) == 2 and lists["trainval"] == sorted(lists["train"] + lists["val"])
    for split in ("train", "val"):
        drawn = frames("voc", split)
        for name in lists[split]:
            frame = drawn[int(name.split("_")[1])]
            assert close(root / "JPEGImages" / f"{name}.jpg", frame.image)
            void = naive_void(frame.ids)
            classes, objects = (
                read_png(root / kind / f"{name}.png") for kind in ("SegmentationClass", "SegmentationObject")
            )
            np.testing.assert_array_equal(classes == 255, void)
            np.testing.assert_array_equal(objects == 255, void)
            boxed = [s.number for s in by_number(frame) if (frame.ids == s.number).sum() >= PARAMS.min_object_px]
            for k, number in enumerate(boxed, start=1):  # the k-th object of the XML has value k
                assert set(objects[(frame.ids == number) & ~void]) <= {k}
            for seen in frame.seen:
                inside = (frame.ids == seen.number) & ~void
                assert set(classes[inside]) <= {BY_NAME[seen.kind].voc} and len(set(objects[inside])) <= 1
            assert not classes[(frame.ids == 0) & ~void].any()
            check_boxes(root / "Annotations" / f"{name}.xml", frame)


def check_boxes(file: Path, frame: Frame) -> None:
    root = ElementTree.parse(file).getroot()
    found = []
    for entry in root.iter("object"):
        box = [int(entry.findtext(f"bndbox/{side}") or -1) for side in ("xmin", "ymin", "xmax", "ymax")]
        found.append((entry.findtext("name"), box))
    expected = []
    for seen in by_number(frame):
        rows, columns = np.nonzero(frame.ids == seen.number)
        if len(rows) >= PARAMS.min_object_px:
            expected.append((seen.kind, [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]))
    assert found == expected


def test_ade20k(world: Path) -> None:
    root = world / "ade20k"
    table = [line.split("\t") for line in lines(root / "objectInfo150.txt")]
    assert table[0] == ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]
    assert {int(row[0]): row[5] for row in table[1:]} == ADE_NAMES
    pixels = np.zeros(256, int)
    for split, folder in (("train", "training"), ("val", "validation")):
        images, masks = (sorted((root / kind / folder).iterdir()) for kind in ("images", "annotations"))
        drawn = frames("ade20k", split)
        stills = Clip(PARAMS, split, 0).stills()
        assert [f.stem for f in images] == [f.stem for f in masks] and len(images) == len(stills) == 2
        for image, mask, still in zip(images, masks, stills, strict=True):
            frame = drawn[still]
            assert close(image, frame.image)
            kinds = {0: 0, **{s.number: BY_NAME[s.kind].ade for s in frame.seen}}
            stuff = [0, *GROUNDS.values()]
            expected = [
                [kinds[i] if i else stuff[g] for i, g in zip(*row, strict=True)]
                for row in zip(frame.ids, frame.ground, strict=True)
            ]
            np.testing.assert_array_equal(read_png(mask), expected)
            pixels += np.bincount(np.ravel(expected), minlength=256)
    for row in table[1:]:
        assert abs(float(row[1]) - pixels[int(row[0])] / pixels.sum()) < 1e-4


def test_coco(world: Path) -> None:
    root, ids = world / "coco", set()
    for split in ("train", "val"):
        document = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        assert {c["id"]: c["name"] for c in document["categories"]} == {k.coco: k.coco_name for k in KINDS}
        drawn, stills = frames("coco", split), Clip(PARAMS, split, 0).stills()
        assert len(document["images"]) == 2
        assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
        for image, still in zip(document["images"], stills, strict=True):
            ids.add(image["id"])
            frame = drawn[still]
            assert close(root / f"{split}2017" / image["file_name"], frame.image)
            own = [a for a in document["annotations"] if a["image_id"] == image["id"]]
            toys = [s for s in by_number(frame) if (frame.ids == s.number).sum() >= PARAMS.min_object_px]
            assert len(own) == len(toys) and toys
            for note, seen in zip(own, toys, strict=True):
                check_instance(note, frame.ids == seen.number, BY_NAME[seen.kind].coco)
    assert len(ids) == 4


def check_instance(note: dict[str, object], mask: np.ndarray, category: int) -> None:
    rows, columns = np.nonzero(mask)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert note["bbox"] == [columns.min(), rows.min(), width, height]
    assert (note["area"], note["category_id"], note["iscrowd"]) == (mask.sum(), category, 0)
    y, x = np.mgrid[:96, :128] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    covered = np.zeros(len(centres), int)
    for polygon in note["segmentation"]:  # type: ignore[attr-defined]
        covered += points_in_poly(centres, np.reshape(polygon, (-1, 2)))
    np.testing.assert_array_equal(covered.reshape(mask.shape), mask)


def test_imagenet(world: Path) -> None:
    root = world / "imagenet"
    assert lines(root / "classes.txt") == list(NAMES)
    for split in ("train", "val"):
        found = sorted((root / split).rglob("*.jpg"))
        drawn = frames("imagenet", split)
        actors = {a.number: a.kind for _, _, shot in Clip(PARAMS, split, 0).shots() for a in shot.actors}
        assert found
        for file in found:
            kind, clip, number = file.stem.split("_")
            assert kind == file.parent.name == actors[int(number)] and int(clip) == 0
            image = cv2.imread(str(file))
            assert image is not None and image.shape == (48, 48, 3)
            assert any(crop_matches(image, frame, int(number)) for frame in drawn.values())


def crop_matches(image: np.ndarray, frame: Frame, number: int) -> bool:
    """The crop is a square of this frame about the toy's box."""
    rows, columns = np.nonzero(frame.ids == number)
    if not len(rows):
        return False
    side = min(round(PARAMS.crop_margin * max(np.ptp(rows) + 1, np.ptp(columns) + 1)), 96)
    left = np.clip((columns.min() + columns.max() + 1 - side) // 2, 0, 128 - side)
    top = np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, 96 - side)
    square = cv2.resize(frame.image[top : top + side, left : left + side], (48, 48), interpolation=cv2.INTER_AREA)
    return bool(np.abs(square.astype(int) - image).mean() < 10)  # other frames: over 20


def test_imagenet_of_scenes(tmp_path: Path) -> None:
    """Each clip is a class of its own: two stills of its first third in train, two of its last third in val."""
    params = PARAMS.model_copy(update={"imagenet_classes": "scenes", "clip_s": 2.0, "stills_per_clip": 2})
    clip = Clip(params, "val", 0)
    facts = imagenet.write(clip, tmp_path)
    imagenet.finish([facts], tmp_path, params)
    assert facts["frames"] == 4 and lines(tmp_path / "classes.txt") == [clip.name]
    drawn = dict(clip.frames(truth=False))
    for side, numbers in (("train", (1, 3)), ("val", (9, 11))):  # twelve frames: thirds of four, at 1/4 and 3/4 of each
        files = sorted((tmp_path / side / clip.name).iterdir())
        assert [file.stem for file in files] == [f"{clip.name}_{number:05d}" for number in numbers]
        assert all(close(file, drawn[number].image) for file, number in zip(files, numbers, strict=True))
