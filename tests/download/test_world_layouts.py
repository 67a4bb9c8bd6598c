"""Layouts of clips, read back by a naive reader of each benchmark and held against the id buffer of the same frames."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.io import loadmat

from components.common.ffmpeg import ffmpeg_exe, probe
from components.common.progress import Progress
from components.download.world import WorldParams, write_world
from components.download.world.classes import BY_NAME, VIP_PARTS
from components.download.world.layouts import WRITERS
from tests.download.small_world import PARAMS, close, frames, lines, naive_void, read_png


def decode(file: Path) -> np.ndarray:
    """All frames of a video, (n, 96, 128, 3) BGR."""
    command = [ffmpeg_exe(), "-loglevel", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "bgr24", "pipe:1"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, 96, 128, 3)


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


def test_ytvos(world: Path) -> None:
    """Ids count the toys as they enter; meta.json names their kinds and the frames they are seen in."""
    for split, folder in (("train", "train"), ("val", "valid")):
        root = world / "ytvos" / folder
        ((name, entry),) = json.loads((root / "meta.json").read_text())["videos"].items()
        assert name == f"{split}-000000"
        images, masks = (sorted((root / kind / name).iterdir()) for kind in ("JPEGImages", "Annotations"))
        assert [f.stem for f in images] == [f.stem for f in masks] == ["00000", "00005"]
        ids: dict[int, int] = {}  # toy -> object id
        seen: dict[int, list[str]] = {}
        for k, frame in frames("ytvos", split).items():
            if k % 5:
                continue
            assert close(images[k // 5], frame.image)
            for toy in sorted(np.unique(frame.ids[frame.ids > 0]).tolist()):
                if toy not in ids and (frame.ids == toy).sum() >= PARAMS.min_object_px:
                    ids[toy] = len(ids) + 1
            expected = sum((value * (frame.ids == toy) for toy, value in ids.items()), np.zeros((96, 128), int))
            np.testing.assert_array_equal(read_png(masks[k // 5]), expected)
            kinds = {s.number: s.kind for s in frame.seen}
            for value in np.unique(expected[expected > 0]):
                toy = next(t for t, v in ids.items() if v == value)
                assert entry["objects"][str(value)]["category"] == kinds[toy]
                seen.setdefault(int(value), []).append(f"{k:05d}")
        assert {int(i): facts["frames"] for i, facts in entry["objects"].items()} == seen and seen


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


def test_got10k(world: Path) -> None:
    root = world / "got10k"
    for split, title in (("train", "GOT-10k_Train_000001"), ("val", "GOT-10k_Val_000001")):
        assert lines(root / split / "list.txt") == [title]
        place = root / split / title
        boxes = np.loadtxt(place / "groundtruth.txt", delimiter=",")
        cover, absence, cut = (np.loadtxt(place / f"{name}.label") for name in ("cover", "absence", "cut_by_image"))
        drawn = frames("got10k", split)
        assert boxes.shape == (6, 4) and len(list(place.glob("*.jpg"))) == 6
        target = np.bincount(drawn[0].ids[drawn[0].ids > 0]).argmax()
        for k, frame in drawn.items():
            assert close(place / f"{k + 1:08d}.jpg", frame.image)
            rows, columns = np.nonzero(frame.ids == target)
            assert absence[k] == (len(rows) == 0) == (cover[k] == 0)
            if not len(rows):
                continue
            sides = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert boxes[k].tolist() == sides
            whole = next(seen.whole_px for seen in frame.seen if seen.number == target)
            assert cover[k] == max(1, round(8 * len(rows) / whole))
            border = np.concatenate([frame.ids[[0, -1]].ravel(), frame.ids[:, [0, -1]].ravel()])
            assert cut[k] == (target in border)
        assert "resolution: (128, 96)" in lines(place / "meta_info.ini")


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
    for layout in ("davis", "voc", "ade20k", "coco", "jhmdb", "vip", "got10k"):
        train, val = frames(layout, "train"), frames(layout, "val")
        assert min(np.abs(a.image.astype(int) - b.image).mean() for a in train.values() for b in val.values()) > 8


def test_one_layout_is_written_at_the_root(world: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"layouts": ["voc"]})
    with Progress(0, "clips") as progress:
        write_world(params, tmp_path / "out", tmp_path / "scratch", progress)
    read = {f.relative_to(tmp_path / "out"): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert read == {f.relative_to(world / "voc"): f.read_bytes() for f in (world / "voc").rglob("*") if f.is_file()}
