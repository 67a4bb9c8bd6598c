"""Every layout, read back by a naive reader of that benchmark and held against the id buffer of the same frames."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from skimage.measure import points_in_poly

from components.common.ffmpeg import ffmpeg_exe, probe
from components.common.progress import Progress
from components.download.world import WorldParams, write_world
from components.download.world.classes import ADE_NAMES, BY_NAME, GROUNDS, KINDS, NAMES, VIP_PARTS
from components.download.world.clip import Clip
from components.download.world.layouts import WRITERS
from components.download.world.render import Frame, Seen

ALL = sorted(WRITERS)
PARAMS = WorldParams(
    layouts=ALL, clips=2, train_clips=1, val_clips=1, clip_s=1.0, fps=6, width_px=128, height_px=96, stills_per_clip=2,
    cuts_per_s=0.6, davis_void_px=1, crop_px=48, jpeg_quality=95, workers=1,
)  # fmt: skip


def _drawn(layout: str) -> int:
    """Frames that a layout draws: stills, the instants of meetings, or all."""
    if layout in ("voc", "ade20k", "coco"):
        return 2 * PARAMS.stills_per_clip
    if layout == "imagenet":
        return sum(len(_meetings(clip)) for clip in WRITERS[layout].clips(PARAMS))
    return 2 * PARAMS.n_frames


def _meetings(clip: Clip) -> set[int]:
    return {min(5, round(actor.meets * 6)) for _, _, shot in clip.shots() for actor in shot.actors}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    with Progress(0, "clips") as progress:
        summary = write_world(PARAMS, out, tmp_path_factory.mktemp("scratch"), progress)
    assert summary["layouts"].split(",") == ALL and summary["clips"] == 2 * len(ALL)
    assert summary["frames"] == sum(_drawn(name) for name in ALL)
    return out


def frames(layout: str, split: str, number: int = 0) -> dict[int, Frame]:
    clip = next(c for c in WRITERS[layout].clips(PARAMS) if (c.split, c.number) == (split, number))
    return dict(clip.frames())


def read_png(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def close(file: Path, image: np.ndarray) -> bool:
    """A JPEG of the image: equal but for the compression."""
    read = cv2.imread(str(file))
    return read is not None and read.shape == image.shape and np.abs(read.astype(int) - image).mean() < 4


def lines(file: Path) -> list[str]:
    text = file.read_text()
    assert text.endswith("\n")
    return text.splitlines()


def decode(file: Path) -> np.ndarray:
    """All frames of a video, (n, 96, 128, 3) BGR."""
    command = [ffmpeg_exe(), "-loglevel", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "bgr24", "pipe:1"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, 96, 128, 3)


def naive_void(ids: np.ndarray) -> np.ndarray:
    """Pixels with another id among their eight neighbours."""
    padded = np.pad(ids.astype(int), 1, mode="edge")
    shifts = [padded[1 + dy : 97 + dy, 1 + dx : 129 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.any([shift != ids for shift in shifts], axis=0)


def test_videos_decode_to_the_frames_that_were_drawn(world: Path) -> None:
    files = sorted((world / "videos").rglob("*"))
    assert [file.name for file in files] == ["clip-000000.mp4", "clip-000001.mp4"]
    for number, file in enumerate(files):
        header = probe(file)
        assert (header.codec, header.width, header.height, header.fps) == ("h264", 128, 96, 6.0)
        decoded = decode(file)
        drawn = frames("videos", "pretrain", number)
        assert len(decoded) == len(drawn) == 6
        for k, frame in drawn.items():
            error = np.mean((decoded[k].astype(float) - frame.image) ** 2)
            assert 10 * np.log10(255**2 / error) > 25  # dB; an unrelated frame gives about 10


def test_keyframes_come_as_often_as_asked(tmp_path: Path) -> None:
    params = WorldParams(clips=1, clip_s=4.0, fps=5, width_px=64, height_px=48, keyframe_s=2.0, workers=1)
    with Progress(0, "clips") as progress:
        write_world(params, tmp_path, tmp_path / "scratch", progress)
    command = [
        ffmpeg_exe(),
        "-skip_frame",
        "nokey",
        "-i",
        str(tmp_path / "clip-000000.mp4"),
        "-vf",
        "showinfo",
        "-f",
        "null",
        "-",
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    times = [float(line.split("pts_time:")[1].split()[0]) for line in report.splitlines() if "pts_time:" in line]
    assert times[0] == 0 and {0.0, 2.0} <= set(times) and max(np.diff([*times, 4.0])) <= 2.0


def davis_sequences(root: Path) -> Iterator[tuple[str, str]]:
    for split in ("train", "val"):
        for name in lines(root / "ImageSets" / "2017" / f"{split}.txt"):
            yield split, name


def test_davis(world: Path) -> None:
    root = world / "davis"
    sequences = list(davis_sequences(root))
    assert [split for split, _ in sequences] == ["train", "val"]
    for split, name in sequences:
        images = sorted((root / "JPEGImages" / "480p" / name).iterdir())
        masks = sorted((root / "Annotations" / "480p" / name).iterdir())
        assert [f.stem for f in images] == [f.stem for f in masks] == [f"{k:05d}" for k in range(6)]
        drawn = frames("davis", split)
        first = read_png(masks[0])
        count = int(first[first < 255].max())
        numbers = sorted(n for n in np.unique(drawn[0].ids) if n and (drawn[0].ids == n).sum() >= PARAMS.min_object_px)
        assert len(numbers) == count >= 1
        for k, frame in drawn.items():
            assert close(images[k], frame.image)
            assert Image.open(masks[k]).mode == "P"
            followed = sum((value * (frame.ids == n) for value, n in enumerate(numbers, 1)), np.zeros((96, 128), int))
            expected = np.where(naive_void(followed), 255, followed)
            np.testing.assert_array_equal(read_png(masks[k]), expected)
        assert Image.open(masks[0]).getpalette()[27:30] == [191, 0, 0]  # type: ignore[index]


def test_davis_has_no_void_by_default(tmp_path: Path) -> None:
    params = WorldParams(
        layouts=["davis"], train_clips=0, val_clips=1, clip_s=0.4, fps=5, width_px=64, height_px=48, workers=1
    )
    with Progress(0, "clips") as progress:
        write_world(params, tmp_path, tmp_path / "scratch", progress)
    assert (tmp_path / "ImageSets" / "2017" / "train.txt").read_text() == ""
    for file in (tmp_path / "Annotations").rglob("*.png"):
        assert 0 < read_png(file).max() < 255


def test_voc(world: Path) -> None:
    root = world / "voc"
    lists = {s: lines(root / "ImageSets" / "Segmentation" / f"{s}.txt") for s in ("train", "val", "trainval")}
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


def by_number(frame: Frame) -> list[Seen]:
    return sorted(frame.seen, key=lambda seen: seen.number)


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


def test_jhmdb(world: Path) -> None:
    root = world / "jhmdb"
    splits = {}
    for file in (root / "splits").iterdir():
        for line in lines(file):
            clip, part = line.split()
            splits[clip.removesuffix(".avi")] = int(part), file.name.removesuffix("_test_split1.txt")
    assert splits == {"train-000000": (1, "walk"), "val-000000": (2, "walk")}
    for name, (part, action) in splits.items():
        drawn = frames("jhmdb", "train" if part == 1 else "val")
        positions = loadmat(root / "joint_positions" / action / name / "joint_positions.mat")["pos_img"]
        assert positions.shape == (2, 15, 6)
        for k, frame in drawn.items():
            image = cv2.imread(str(root / "Rename_Images" / action / name / f"{k + 1:05d}.png"))
            np.testing.assert_array_equal(image, frame.image)
            lead = next(seen for seen in frame.seen if seen.number == 1)
            np.testing.assert_allclose(positions[:, :, k].T - 1, lead.joints, atol=1e-9)


def test_vip(world: Path) -> None:
    root = world / "vip"
    assert lines(root / "lists" / "categories.txt")[13] == "13 face" and len(VIP_PARTS) == 20
    seen: set[int] = set()
    for split in ("train", "val"):
        (name,) = lines(root / "lists" / f"{split}_videos.txt")
        images = sorted((root / "Images" / name).iterdir())
        masks = sorted((root / "Annotations" / "Category_ids" / name).iterdir())
        assert [f.stem for f in images] == [f.stem for f in masks] and len(images) == 6
        for k, frame in frames("vip", split).items():
            assert close(images[k], frame.image)
            read = cv2.imread(str(masks[k]))  # as the benchmark's code does: three equal channels
            assert read is not None and (read == read[..., :1]).all()
            np.testing.assert_array_equal(read[..., 0], frame.parts)
            seen |= set(np.unique(read).tolist())
    assert seen <= set(range(20)) and {2, 13} <= seen and len(seen) >= 7


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


def test_vidor(world: Path) -> None:
    root = world / "vidor"
    for number in range(2):
        notes = json.loads((root / "annotation" / "training" / "0000" / f"{number:010d}.json").read_text())
        header = probe(root / "video" / notes["video_path"])
        drawn = frames("vidor", "pretrain", number)
        clip = WRITERS["vidor"].clips(PARAMS)[number]
        assert (notes["video_id"], notes["frame_count"], notes["fps"]) == (f"{number:010d}", 6, header.fps)
        assert (notes["width"], notes["height"]) == (header.width, header.height)
        kinds = {entry["tid"]: entry["category"] for entry in notes["subject/objects"]}
        owner: dict[int, tuple[int, int]] = {}
        for k, entries in enumerate(notes["trajectories"]):
            shot = sum(k >= cut for cut in clip.cuts)
            ids = drawn[k].ids
            large = {s.number: s.kind for s in drawn[k].seen if (ids == s.number).sum() >= PARAMS.min_object_px}
            assert len(entries) == len(large)
            for entry, (toy, kind) in zip(entries, sorted(large.items()), strict=True):
                assert owner.setdefault(entry["tid"], (shot, toy)) == (shot, toy)  # a track is one toy of one shot
                assert kinds[entry["tid"]] == BY_NAME[kind].vidor
                rows, columns = np.nonzero(ids == toy)
                sides = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert list(entry["bbox"].values()) == sides and list(entry["bbox"]) == ["xmin", "ymin", "xmax", "ymax"]
        assert set(owner) == set(kinds) and len(set(owner.values())) == len(owner)


def test_train_and_val_show_different_scenes(world: Path) -> None:
    for layout in ("davis", "voc", "ade20k", "coco", "jhmdb", "vip"):
        train, val = frames(layout, "train"), frames(layout, "val")
        assert min(np.abs(a.image.astype(int) - b.image).mean() for a in train.values() for b in val.values()) > 8


def test_one_layout_is_written_at_the_root(world: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"layouts": ["voc"]})
    with Progress(0, "clips") as progress:
        write_world(params, tmp_path / "out", tmp_path / "scratch", progress)
    read = {f.relative_to(tmp_path / "out"): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert read == {f.relative_to(world / "voc"): f.read_bytes() for f in (world / "voc").rglob("*") if f.is_file()}
