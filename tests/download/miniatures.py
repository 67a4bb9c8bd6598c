"""Every published dataset as a few small files in its real layout, packed as it is published; content is made up."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from components.common.ffmpeg import ffmpeg_exe

SIZE = (64, 48)
PALETTE = [channel for value in range(256) for channel in (value, (7 * value) % 256, (31 * value) % 256)]


def video(path: Path, seconds: float = 2.0, fps: float = 15, seed: int = 0) -> Path:
    """H.264: a smooth pattern that moves; another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    a, b = 3 + seed % 5, 2 + seed % 7
    luma = f"lum='128+60*sin((X+{40 + 9 * seed}*T)/{a})+50*sin((Y+X*{seed % 3}+{10 + seed}*T)/{b})'"
    picture = f"nullsrc=s={SIZE[0]}x{SIZE[1]}:r={fps}:d={seconds},geq={luma}:cb=128:cr=128"
    command = [ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", picture, "-c:v", "libx264"]
    rest = ["-crf", "12", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run([*command, *rest], check=True)
    return path


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A picture of smooth noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def labels(size: tuple[int, int] = SIZE, values: tuple[int, ...] = (1, 2), shift: int = 0) -> np.ndarray:
    """uint8 (H, W): a square of each value on background, void (255) along the last one's edge."""
    made = np.zeros((size[1], size[0]), np.uint8)
    for number, value in enumerate(values):
        made[8:24, 4 + 20 * number + shift : 16 + 20 * number + shift] = value
    return made


def mask(path: Path, values: np.ndarray, palette: bool = True) -> Path:
    """A label map as a palette picture, or as a grey one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(PALETTE)
    image.save(path)
    return path


def lines(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def zipped(folder: Path, archive: Path, top: str = "") -> Path:
    """A zip of all files below `folder`, whose names begin with `top`."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, top + path.relative_to(folder).as_posix())
    return archive


def tarred(folder: Path, archive: Path, top: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.add(path, top + path.relative_to(folder).as_posix())
    return archive


def frames_and_masks(root: Path, videos: dict[str, int], values: tuple[int, ...] = (1, 2), step: int = 1) -> None:
    """JPEGImages/<video>/00000.jpg and Annotations/<video>/00000.png of so many frames each; the squares move."""
    for seed, (name, count) in enumerate(videos.items()):
        for number in range(count):
            picture(root / "JPEGImages" / name / f"{number * step:05d}.jpg", 100 * seed + number // 3)
            mask(root / "Annotations" / name / f"{number * step:05d}.png", labels(values=values, shift=number % 8))


def davis2017(out: Path, work: Path) -> None:
    frames_and_masks(work / "DAVIS", {"480p/bear": 6, "480p/camel": 5})
    lines(work / "DAVIS/ImageSets/2017/train.txt", "bear")
    lines(work / "DAVIS/ImageSets/2017/val.txt", "camel")
    zipped(work, out / "DAVIS-2017-trainval-480p.zip")


def davis2016(out: Path, work: Path) -> None:
    frames_and_masks(work / "DAVIS", {"480p/bear": 4, "480p/camel": 4}, values=(255,))
    for split, name in (("train", "bear"), ("val", "camel")):
        rows = [f"/JPEGImages/480p/{name}/{n:05d}.jpg /Annotations/480p/{name}/{n:05d}.png" for n in range(4)]
        lines(work / f"DAVIS/ImageSets/480p/{split}.txt", *rows)
    zipped(work, out / "DAVIS-data.zip")


def youtube_vos(out: Path, work: Path) -> None:
    videos = {f"{n:02x}a4d5c8b2": 5 for n in range(10)}
    frames_and_masks(work / "train", videos, step=5)
    kinds = ["zebra", "ape", "person"]
    told = {
        name: {"objects": {"1": {"category": kinds[at % 3], "frames": ["00000"]}, "2": {"category": "person"}}}
        for at, name in enumerate(videos)
    }
    (work / "train/meta.json").write_text(json.dumps({"videos": told}))
    zipped(work / "train", out / "train.zip", "train/")
    frames_and_masks(work / "valid", {"00f88c4f0a": 4}, step=5)
    for number in (5, 10, 15):  # the masks of valid are public for the first frame alone
        (work / f"valid/Annotations/00f88c4f0a/{number:05d}.png").unlink()
    zipped(work / "valid", out / "valid.zip", "valid/")


def mose(out: Path, work: Path) -> None:
    frames_and_masks(work / "train", {"0a0f0bc2": 5, "1b2c3d4e": 4})
    tarred(work / "train", out / "train.tar.gz", "train/")


def visor(out: Path, work: Path) -> None:
    for participant, name in (("P01", "P01_01"), ("P02", "P02_03")):
        for number in range(5):
            picture(work / name / f"{name}_frame_{60 * number + 140:010d}.jpg", number)
        zipped(work / name, out / f"GroundTruth-SparseAnnotations/rgb_frames/train/{participant}/{name}.zip")


def visor_export(out: Path, work: Path) -> None:
    frames_and_masks(out / "VISOR_2022", {"480p/P01_01_seq_00001": 4})
    lines(out / "VISOR_2022/ImageSets/2022/train.txt", "P01_01_seq_00001")
    lines(out / "VISOR_2022/ImageSets/2022/val.txt", "P01_01_seq_00001")


def kinetics400(out: Path, work: Path) -> None:
    """Class folders of files and, in one of them, of frames."""
    names = ("abseiling", "zumba", "air_drumming")
    for seed, name in enumerate(names):
        for number in range(2):
            place = out / f"train/{name}/{10 * seed + number:011d}_000010_000020"
            if name == "air_drumming":  # frames instead of a file
                for frame in range(20):
                    picture(place / f"{frame:05d}.jpg", 100 * number + frame // 4)
            else:
                video(place.with_suffix(".mp4"), 3, seed=7 * seed + number)
    lines(out / "labels.txt", "399,zumba", "0,abseiling", "5,air_drumming", "290,sharpening_knives")


def vidor(out: Path, work: Path) -> None:
    for number, part in enumerate(("training", "training", "validation")):
        key = f"000{number}/{2400171624 + number}"
        video(out / f"video/{key}.mp4", 12.4, 10, seed=number)
        boxes = [
            [
                {"tid": 0, "bbox": {"xmin": 4, "ymin": 4, "xmax": 40, "ymax": 40}, "generated": 0, "tracker": "none"},
                *([{"tid": 1, "bbox": {"xmin": 30, "ymin": 8, "xmax": 60, "ymax": 30}}] if frame > 60 else []),
            ]
            for frame in range(124)
        ]
        told = {
            "version": "VERSION 1.0", "video_id": key.rpartition("/")[2], "video_path": f"{key}.mp4",
            "frame_count": 124, "fps": 10.0, "width": SIZE[0], "height": SIZE[1], "trajectories": boxes,
            "subject/objects": [{"tid": 0, "category": "child"}, {"tid": 1, "category": "dog"}],
            "relation_instances": [],
        }  # fmt: skip
        lines(out / f"annotation/{part}/{key}.json", json.dumps(told))


def walking_tours(out: Path, work: Path) -> None:
    for seed, city in enumerate(("Amsterdam", "Venice")):
        video(out / f"{city}/{city}_4K.mp4", 10, 30, seed=seed)


def walking_tours_venice(out: Path, work: Path) -> None:
    video(out / "venice.mp4", 10, 30, seed=5)


def _voc(root: Path, names: dict[str, list[str]]) -> None:
    for seed, name in enumerate(sorted({name for named in names.values() for name in named})):
        picture(root / f"JPEGImages/{name}.jpg", seed)
        lines(root / f"Annotations/{name}.xml", f"<annotation><filename>{name}.jpg</filename></annotation>")
    for split, named in names.items():
        lines(root / f"ImageSets/{split}.txt", *named)


def voc2007(out: Path, work: Path) -> None:
    for file, split, names in (
        ("VOCtrainval_06-Nov-2007", "Main/trainval", ["000005", "000007"]),
        ("VOCtest_06-Nov-2007", "Main/test", ["000001"]),
    ):
        _voc(work / file / "VOCdevkit/VOC2007", {split: names})
        lines(work / file / "VOCdevkit/VOC2007/README", "of the development kit")  # in both archives
        tarred(work / file, out / f"{file}.tar")


def voc2012(out: Path, work: Path) -> None:
    root = work / "VOCdevkit/VOC2012"
    _voc(root, {"Segmentation/train": ["2007_000032"], "Segmentation/val": ["2007_000033"]})
    picture(root / "JPEGImages/2008_000002.jpg", 8)
    picture(root / "JPEGImages/2008_000003.jpg", 9)
    for name in ("2007_000032", "2007_000033"):
        mask(root / f"SegmentationClass/{name}.png", labels(values=(15, 255)))
    tarred(work / "VOCdevkit", out / "VOCtrainval_11-May-2012.tar", "VOCdevkit/")


def voc2012_aug(out: Path, work: Path) -> None:
    from scipy.io import savemat

    voc2012(out, work / "voc")
    cls = work / "sbd/dataset/cls"
    cls.mkdir(parents=True)
    for value, name in enumerate(("2008_000002", "2008_000003", "2007_000033"), start=3):
        seg = np.zeros((1, 1), dtype=[("Segmentation", object)])
        seg[0, 0]["Segmentation"] = labels(values=(value,))
        savemat(cls / f"{name}.mat", {"GTcls": seg})
    tarred(work / "sbd", out / "benchmark.tgz", "benchmark_RELEASE/")


def ade20k(out: Path, work: Path) -> None:
    for split, n in (("training", 2), ("validation", 1)):
        for number in range(n):
            name = f"ADE_{'train' if split == 'training' else 'val'}_{number + 1:08d}"
            picture(work / f"images/{split}/{name}.jpg", number)
            mask(work / f"annotations/{split}/{name}.png", labels(values=(1, 150)), palette=False)
    zipped(work, out / "ADEChallengeData2016.zip", "ADEChallengeData2016/")


def _coco(year: str) -> Callable[[Path, Path], None]:
    def write(out: Path, work: Path) -> None:
        for split in ("train", "val"):
            file = f"COCO_{split}2014_000000000009.jpg" if year == "2014" else "000000000009.jpg"
            picture(work / split / file)
            zipped(work / split, out / f"{split}{year}.zip", f"{split}{year}/")
            box = {"id": 1, "image_id": 9, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
            told = {"images": [{"id": 9, "file_name": file}], "annotations": [box], "categories": [{"id": 1}]}
            lines(work / f"notes/instances_{split}{year}.json", json.dumps(told))
        zipped(work / "notes", out / f"annotations_trainval{year}.zip", "annotations/")

    return write


def imagenet1k(out: Path, work: Path) -> None:
    from scipy.io import savemat

    classes = ["n01440764", "n01443537"]
    for seed, name in enumerate(classes):
        for number in range(2):
            picture(work / name / f"{name}_{number}.JPEG", 10 * seed + number)
        tarred(work / name, work / f"train/{name}.tar")
    tarred(work / "train", out / "ILSVRC2012_img_train.tar")
    for number in range(4):
        picture(work / f"val/ILSVRC2012_val_{number + 1:08d}.JPEG", 50 + number)
    tarred(work / "val", out / "ILSVRC2012_img_val.tar")
    kind = [(field, object) for field in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(1, classes[1], "goldfish", "", 0), (2, classes[0], "tench", "", 0), (1001, "n00001740", "entity", "", 2)]
    synsets = np.array([[row] for row in rows], dtype=kind)
    (work / "kit/data").mkdir(parents=True)
    savemat(work / "kit/data/meta.mat", {"synsets": synsets})
    lines(work / "kit/data/ILSVRC2012_validation_ground_truth.txt", "2", "1", "1", "2")
    tarred(work / "kit", out / "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12/")


def jhmdb(out: Path, work: Path) -> None:
    clip = "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0"
    for number in (1, 2):
        picture(work / f"images/{clip}/{number:05d}.png", number)
    lines(work / f"joints/{clip}/joint_positions.mat", "MATLAB 5.0 MAT-file")
    lines(work / "splits/brush_hair_test_split1.txt", f"{clip.rpartition('/')[2]}.avi 2")
    tarred(work / "images", out / "Rename_Images.tar.gz", "Rename_Images/")
    zipped(work / "joints", out / "joint_positions.zip", "joint_positions/")
    zipped(work / "splits", out / "splits.zip", "splits/")


def vip(out: Path, work: Path) -> None:
    for number in range(3):
        picture(out / f"VIP_Fine/Images/videos1/{25 * number + 1:012d}.jpg", number)
        place = out / f"VIP_Fine/Annotations/Category_ids/videos1/{25 * number + 1:012d}.png"
        mask(place, labels(values=(1, 19)), palette=False)
    lines(out / "VIP_Fine/lists/val_videos.txt", "videos1")


def got10k(out: Path, work: Path) -> None:
    name = "GOT-10k_Val_000001"
    for number in (1, 2):
        picture(work / f"val/{name}/{number:08d}.jpg", number)
    lines(work / f"val/{name}/groundtruth.txt", "1.0,2.0,10.0,12.0", "2.0,2.0,10.0,12.0")
    lines(work / "val/list.txt", name)
    zipped(work / "val", out / "GOT-10k_Val.zip", "val/")


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "ade20k": ade20k, "coco2014": _coco("2014"), "coco2017": _coco("2017"), "davis2016": davis2016,
    "davis2017": davis2017, "got10k": got10k, "imagenet1k": imagenet1k, "jhmdb": jhmdb, "kinetics400": kinetics400,
    "mose": mose, "vidor": vidor, "vip": vip, "visor": visor, "voc2007": voc2007, "voc2012": voc2012,
    "voc2012_aug": voc2012_aug, "walking_tours": walking_tours, "walking_tours_venice": walking_tours_venice,
    "youtube_vos": youtube_vos,
}  # fmt: skip


def write(name: str, out: Path, work: Path) -> Path:
    """The miniature of a dataset, as it is published, in the new folder `out`."""
    out.mkdir(parents=True)
    WRITERS[name](out, work)
    return out


def read_mask(path: Path | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path) if isinstance(path, bytes) else path))
