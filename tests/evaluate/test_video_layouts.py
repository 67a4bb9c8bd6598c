"""Trees of masked videos: what is found in each layout, and one line for each way it is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.common.errors import StageError
from components.common.progress import Progress
from components.download.world import WorldParams, write_world
from components.evaluate.images import read_index
from components.evaluate.layouts.video_masks import read_videos
from tests.evaluate.small import davis, real_data, write_image, write_labels, write_list, ytvos


def tree(root: Path, videos: tuple[str, ...], level: str = "", n_frames: int = 3) -> Path:
    """Frames and masks of objects 1 and 7, void at the top."""
    for name in videos:
        for t in range(n_frames):
            labels = np.zeros((20, 30), np.uint8)
            labels[5:10, 5 + t : 15 + t], labels[12:18, 4:9], labels[0] = 1, 7, 255
            write_image(root / "JPEGImages" / level / name / f"{t:05d}.jpg", np.zeros((20, 30, 3), np.uint8))
            write_labels(root / "Annotations" / level / name / f"{t:05d}.png", labels)
    return root


def test_davis_lists_what_it_lists(tmp_path: Path) -> None:
    root = davis(tmp_path, names=("a", "b", "c"))
    write_list(root / "ImageSets/2017/val.txt", ["c", "a"])
    assert [(v.name, len(v.frames)) for v in read_videos(root, "davis", "2017/val")] == [("c", 5), ("a", 5)]
    write_list(root / "mine.txt", ["b"])
    (only,) = read_videos(root, "davis", "2017/val", "mine.txt")
    assert only.name == "b" and set(np.unique(only.labels(0, 26))) == {0, 1, 2}
    with pytest.raises(StageError, match=r"no such list: .*test.txt \(there are: val\)"):
        read_videos(root, "davis", "2017/test")


def test_ytvos_objects_become_classes(tmp_path: Path) -> None:
    """ape 1, cow 2, zebra 3 by rank; in video a object 1 is a zebra and 2, 5 apes: no chain 1 -> 3, 5 -> 1 -> 3."""
    videos = read_videos(ytvos(tmp_path), "ytvos", "valid")
    assert [v.name for v in videos] == ["a", "b", "c"] and all(len(v.frames) == len(v.masks) == 6 for v in videos)
    rank = {"ape": 1, "cow": 2, "zebra": 3}
    kinds = {"a": ("zebra", "ape"), "b": ("ape", "cow"), "c": ("cow", "zebra")}
    for video in videos:
        mask = read_index(video.masks[2])
        first, second = (rank[kind] for kind in kinds[video.name])
        expected = np.select([mask == 1, mask == 2, mask == 5], [first, second, second], 0)
        found = video.labels(2, 48)  # nearest: rows stay, of 64 columns 48 are taken
        assert set(np.unique(found)) == set(np.unique(expected)) == {0, first, second}
        columns = ((np.arange(48) + 0.5) * 64 / 48).astype(int)
        np.testing.assert_array_equal(found, expected[:, columns])


def test_ytvos_sparse_masks_and_void(tmp_path: Path) -> None:
    root = ytvos(tmp_path, names=("a",))
    masks = root / "valid/Annotations/a"
    (masks / "00000.png").unlink()
    (masks / "00010.png").unlink()
    labels = read_index(masks / "00005.png")
    labels[:3] = 255
    write_labels(masks / "00005.png", labels)
    (video,) = read_videos(root, "ytvos", "valid")
    assert [file.stem for file in video.frames] == ["00005", "00015", "00020", "00025"]
    assert (video.labels(0, 48)[:3] == 255).all()


def test_ytvos_broken(tmp_path: Path) -> None:
    root = ytvos(tmp_path)
    meta = root / "valid/meta.json"
    whole = json.loads(meta.read_text())
    with pytest.raises(StageError, match=r"no split 'train': .* \(there are: valid\)"):
        read_videos(root, "ytvos", "train")
    for text in (
        "{",
        "[]",
        '{"videos": {"a": {"objects": {"1": {}}}}}',
        '{"videos": {"a": {"objects": {"x": {"category": 1}}}}}',
    ):
        meta.write_text(text)
        with pytest.raises(StageError, match=r"not a YouTube-VOS meta\.json"):
            read_videos(root, "ytvos", "valid")
    meta.write_text(json.dumps({"videos": {k: v for k, v in whole["videos"].items() if k != "b"}}))
    with pytest.raises(StageError, match=r"video b is not in meta\.json"):
        read_videos(root, "ytvos", "valid")
    del whole["videos"]["a"]["objects"]["5"]
    meta.write_text(json.dumps(whole))
    with pytest.raises(StageError, match=r"object 5 of video a has no category in meta.json: .*00000.png"):
        read_videos(root, "ytvos", "valid")[0].labels(0, 8)
    meta.unlink()
    with pytest.raises(StageError, match=r"not in YouTube-VOS layout, no meta\.json"):
        read_videos(root, "ytvos", "valid")


def test_mose_has_raw_ids(tmp_path: Path) -> None:
    tree(tmp_path / "train", ("v1", "v2"))
    videos = read_videos(tmp_path, "mose", "train")
    assert [v.name for v in videos] == ["v1", "v2"] and videos[0].label_of is None
    assert set(np.unique(videos[0].labels(1, 30))) == {0, 1, 7, 255}
    assert read_videos(tmp_path / "train", "mose", "train") == videos  # the split's own folder does as well
    with pytest.raises(StageError, match=r"no split 'valid': .* \(there are: train\)"):
        read_videos(tmp_path, "mose", "valid")


def test_visor_as_exported_and_as_unpacked(tmp_path: Path) -> None:
    exported = tree(tmp_path / "exported", ("P01_01_seq_00001", "P02_03_seq_00002"), level="480p")
    write_list(exported / "ImageSets/2022/val.txt", ["P02_03_seq_00002"])
    assert [v.name for v in read_videos(exported, "visor", "2022/val")] == ["P02_03_seq_00002"]
    unpacked = tree(tmp_path / "unpacked", ("P01/P01_01", "P01/P01_02", "P02/P02_03"))
    assert [v.name for v in read_videos(unpacked, "visor", "2022/val")] == ["P01/P01_01", "P01/P01_02", "P02/P02_03"]
    (unpacked / "JPEGImages/P02/P02_04.zip").write_bytes(b"PK")
    with pytest.raises(StageError, match=r"an archive where folders of frames are expected: .*P02_04.zip \(unpack it"):
        read_videos(unpacked, "visor", "2022/val")
    assert (unpacked / "JPEGImages/P02/P02_04.zip").exists()


def test_broken_trees(tmp_path: Path) -> None:
    root = tree(tmp_path, ("v1", "v2"))
    write_list(root / "mine.txt", ["v1", "v9"])
    with pytest.raises(StageError, match="video v9 is listed but has no frames"):
        read_videos(root, "mose", "train", "mine.txt")
    shutil.copytree(root / "Annotations/v2", root / "Annotations/v3")
    with pytest.raises(StageError, match="video v3 has masks but has no frames"):
        read_videos(root, "mose", "train")
    shutil.rmtree(root / "Annotations/v3")
    shutil.copy(root / "Annotations/v2/00001.png", root / "Annotations/v2/00009.png")
    with pytest.raises(StageError, match=r"masks and frames disagree in video v2: 00009\.png has no frame"):
        read_videos(root, "mose", "train")
    (root / "Annotations/v2/00009.png").unlink()
    write_labels(root / "Annotations/v2/00001.png", np.zeros((20, 31)))
    with pytest.raises(StageError, match="sizes disagree in video v2: mask 31x20, frame 30x20"):
        read_videos(root, "mose", "train")[1].labels(1, 8)
    shutil.rmtree(root / "Annotations")
    with pytest.raises(StageError, match="no Annotations folder"):
        read_videos(root, "mose", "train")
    (root / "Annotations/v1").mkdir(parents=True)
    with pytest.raises(StageError, match="no folder here holds pictures"):
        read_videos(root, "mose", "train")
    with pytest.raises(StageError, match=r"no split 'train': .*nowhere \(expected train/JPEGImages"):
        read_videos(root / "nowhere", "mose", "train")


def test_real_sparse_masks() -> None:
    videos = read_videos(real_data("pumavos"), "davis", "2017/sparse")
    assert [(v.name, len(v.frames)) for v in videos] == [("caps", 5)]


def test_the_sample_world_is_read(tmp_path: Path) -> None:
    params = WorldParams(
        layouts=["ytvos"], train_clips=0, val_clips=2, clip_s=1, fps=11, width_px=96, height_px=64, workers=1
    )
    with Progress(0, "clips") as progress:
        write_world(params, tmp_path / "w", tmp_path / "scratch", progress)
    videos = read_videos(tmp_path / "w", "ytvos", "valid")
    assert [[f.stem for f in v.frames] for v in videos] == [["00000", "00005", "00010"]] * 2
    assert all(v.label_of and set(np.unique(v.labels(0, 64))) <= {0, *v.label_of.values()} for v in videos)
