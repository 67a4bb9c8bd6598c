"""Every dataset from its published form to one folder: fetched over loopback or copied, unpacked, arranged, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.tcore_lists import read_lists
from components.download.cards import read_card
from components.download.sources import local
from tests.download import miniatures
from tests.download.conftest import Download
from tests.download.file_server import FileServer
from tests.download.miniatures import labels, read_mask

# Of each: how it comes, and some of what must lie in the folder.
SIMPLE: dict[str, list[str]] = {
    "ade20k": ["images/training/ADE_train_00000001.jpg", "annotations/validation/ADE_val_00000001.png"],
    "coco2014": ["train2014/COCO_train2014_000000000009.jpg", "annotations/instances_val2014.json"],
    "coco2017": ["val2017/000000000009.jpg", "annotations/instances_train2017.json"],
    "davis2016": ["JPEGImages/480p/bear/00000.jpg", "ImageSets/480p/val.txt"],
    "davis2017": ["JPEGImages/480p/bear/00005.jpg", "Annotations/480p/camel/00000.png", "ImageSets/2017/val.txt"],
    "got10k": ["val/GOT-10k_Val_000001/groundtruth.txt", "val/list.txt"],
    "imagenet1k": ["train/n01440764/n01440764_1.JPEG", "val/n01443537/ILSVRC2012_val_00000002.JPEG"],
    "jhmdb": ["Rename_Images/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0/00001.png"],
    "kinetics400": ["train/zumba/00000000010_000010_000020.mp4", "entries-TRAIN.npy"],
    "mose": ["train/JPEGImages/0a0f0bc2/00000.jpg", "train/Annotations/1b2c3d4e/00003.png"],
    "vidor": ["video/0000/2400171624.mp4", "annotation/validation/0002/2400171626.json"],
    "vip": ["Images/videos1/000000000001.jpg", "Annotations/Category_ids/videos1/000000000026.png"],
    "visor": ["rgb_frames/train/P01/P01_01/P01_01_frame_0000000140.jpg"],
    "voc2007": ["JPEGImages/000001.jpg", "ImageSets/Main/test.txt", "README"],
    "voc2012": ["SegmentationClass/2007_000032.png", "ImageSets/Segmentation/val.txt"],
    "voc2012_aug": ["SegmentationClassAug/2008_000002.png", "ImageSets/Segmentation/trainaug.txt"],
    "walking_tours": ["Venice/Venice_4K.mp4"],
    "walking_tours_venice": ["venice.mp4"],
    "youtube_vos": [
        "train/meta.json",
        "train/JPEGImages/00a4d5c8b2/00020.jpg",
        "valid/Annotations/00f88c4f0a/00000.png",
    ],
}
BY_HAND = {"got10k", "imagenet1k", "kinetics400", "mose", "vidor", "vip", "visor", "youtube_vos"}


@pytest.fixture
def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards without the sums of the real archives, which miniatures cannot have."""

    def read(name: str) -> Any:
        card = read_card(name)
        files = [file.model_copy(update={"md5": None}) for file in card.files]
        return card.model_copy(update={"files": files, "checksums": {}})

    monkeypatch.setattr("components.download.stage.read_card", read)


def holds(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    assert not missing, sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", sorted(SIMPLE))
def test_from_a_folder_as_it_was_fetched(name: str, download: Download, tmp_path: Path, unsigned: None, capsys: Any):
    source = miniatures.write(name, tmp_path / "mine", tmp_path / "work")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert download(card=name, path=str(source)) == 0
    holds(download.data, SIMPLE[name])
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    said = download.said("CARD.json")
    assert said["card"] == name and said["licence"] and said["citation"]
    card = read_card(name)
    assert all(row["published"] in {count.expected for count in card.counts} for row in said["counts"])
    told = capsys.readouterr()
    assert f"[download@d] {name}: " in told.out
    assert said["amiss"] == [line for line in said["amiss"] if line.startswith("not as published")]  # all else is well


@pytest.mark.parametrize("name", sorted(set(SIMPLE) - BY_HAND - {"walking_tours", "walking_tours_venice"}))
def test_from_the_addresses_of_the_card(name: str, download: Download, tmp_path: Path, unsigned: None) -> None:
    server = FileServer(miniatures.write(name, tmp_path / "served", tmp_path / "work"))
    try:
        assert download(card=name, mirror=server.url) == 0
    finally:
        server.close()
    holds(download.data, SIMPLE[name])
    assert {row.split("/")[-1] for row in server.asked} == {file.url.split("/")[-1] for file in read_card(name).files}


def test_an_archive_of_another_sum_is_refused(download: Download, tmp_path: Path, capsys: Any) -> None:
    server = FileServer(miniatures.write("voc2012", tmp_path / "served", tmp_path / "work"))
    try:
        assert download(card="voc2012", mirror=server.url) == 2
    finally:
        server.close()
    assert "the MD5 differs: expected 6cd6e144f989b92b3379bac3b3de84fd" in capsys.readouterr().err
    miniatures.write("imagenet1k", tmp_path / "mine", tmp_path / "work2")
    assert download(card="imagenet1k", path=str(tmp_path / "mine")) == 2
    assert "the MD5 of ILSVRC2012_devkit_t12.tar.gz differs" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_what_nobody_can_fetch_says_what_to_do(name: str, download: Download, capsys: Any) -> None:
    assert download(card=name) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"download: nobody can fetch '{name}' by itself: http")
    assert line.endswith("then name the folder: path: DIR)")
    assert download(card=name, path="/nowhere") == 2
    assert f"no such file or folder: /nowhere ({name}: fetch " in capsys.readouterr().err


def test_a_whole_dataset_is_as_published(download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The same card with the miniature's own numbers."""
    card = read_card("davis2017")
    counts = [count.model_copy(update={"expected": n}) for count, n in zip(card.counts, (2, 1, 1), strict=True)]
    small = card.model_copy(update={"counts": counts})
    monkeypatch.setattr("components.download.stage.read_card", lambda name: small)
    source = miniatures.write("davis2017", tmp_path / "mine", tmp_path / "work")
    assert download(card="davis2017", path=str(source), check="fail") == 0
    told = capsys.readouterr()
    assert "davis2017: 2 sequences, 1 training sequences, 1 validation sequences, as published" in told.out
    assert "warning" not in told.err
    assert download.said("CARD.json")["splits"] == {"train": 1, "val": 1}
    assert download.said("CARD.json")["ignore_label"] == 255


def test_a_difference_warns_or_fails_as_asked(download: Download, tmp_path: Path, capsys: Any) -> None:
    source = miniatures.write("davis2017", tmp_path / "mine", tmp_path / "work")
    assert download(card="davis2017", path=str(source), check="fail") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("download: not as published: 2 of 90 sequences, 1 of 60 training sequences")
    assert not download.data.exists()
    assert download(card="davis2017", path=str(source), check="off") == 0
    assert "published" not in capsys.readouterr().err


def test_pascals_augmented_set_is_made_of_both_archives(download: Download, tmp_path: Path, unsigned: None) -> None:
    source = miniatures.write("voc2012_aug", tmp_path / "mine", tmp_path / "work")
    assert download(card="voc2012_aug", path=str(source)) == 0
    train = (download.data / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert train == ["2007_000032", "2008_000002", "2008_000003"]  # (SBD and VOC's train) without VOC's val
    maps = download.data / "SegmentationClassAug"
    assert {file.stem for file in maps.iterdir()} == {*train, "2007_000033"}
    np.testing.assert_array_equal(read_mask(maps / "2008_000003.png"), labels(values=(4,)))
    for own in ("2007_000032", "2007_000033"):  # VOC's own, with void, though SBD has one, too
        np.testing.assert_array_equal(read_mask(maps / f"{own}.png"), labels(values=(15, 255)))


def test_imagenets_validation_pictures_go_to_their_classes(download: Download, tmp_path: Path, unsigned: None) -> None:
    source = miniatures.write("imagenet1k", tmp_path / "mine", tmp_path / "work")
    assert download(card="imagenet1k", path=str(source)) == 0
    places = {file.parent.name + file.stem[-2:] for file in (download.data / "val").rglob("*.JPEG")}
    assert places == {"n0144076401", "n0144353702", "n0144353703", "n0144076404"}  # ground truth 2, 1, 1, 2


def test_kinetics_gets_the_lists_of_tcore(download: Download, tmp_path: Path, capsys: Any) -> None:
    source = miniatures.write("kinetics400", tmp_path / "mine", tmp_path / "work")
    assert download(card="kinetics400", path=str(source)) == 0
    lists = read_lists(download.data, "TRAIN")
    assert lists.class_names.tolist() == ["abseiling", "air_drumming", "zumba"]
    assert lists.class_ids.tolist() == ["class_0", "class_5", "class_399"]
    assert lists.entries["class_index"].tolist() == [0, 0, 1, 1, 2, 2]
    assert "by two videos" not in capsys.readouterr().err
    (source / "train/skydiving").mkdir()
    miniatures.video(source / "train/skydiving/00000000010_000010_000020.mp4")
    assert download(card="kinetics400", path=str(source)) == 2
    assert "1 of 4 class folders are not in labels.txt: skydiving" in capsys.readouterr().err
    (source / "labels.txt").unlink()
    assert download(card="kinetics400", path=str(source)) == 0
    assert "1 names are used by two videos or more: 00000000010_000010_000020; all" in capsys.readouterr().err
    assert len(list(download.data.rglob("*.mp4"))) == 5


def test_visors_export_is_read_as_it_is(download: Download, tmp_path: Path) -> None:
    miniatures.visor_export(tmp_path / "mine", tmp_path / "work")
    assert download(card="visor", path=str(tmp_path / "mine")) == 0
    holds(download.data, ["JPEGImages/480p/P01_01_seq_00001/00000.jpg", "ImageSets/2022/train.txt"])


def test_walking_tours_tell_what_each_video_is(download: Download, tmp_path: Path, capsys: Any) -> None:
    source = miniatures.write("walking_tours", tmp_path / "mine", tmp_path / "work")
    (source / "Bangkok").mkdir()
    (source / "Bangkok" / "x.mp4").write_bytes(b"no video")
    assert download(card="walking_tours", path=str(source)) == 0
    streams = {row["path"]: row for row in download.said("MANIFEST.json")["streams"]}
    venice = streams["Venice/Venice_4K.mp4"]
    assert (venice["width"], venice["height"], venice["fps"], venice["codec"]) == (64, 48, 30, "h264")
    assert venice["duration_s"] == pytest.approx(10, abs=0.1)
    assert "not a readable video" in streams["Bangkok/x.mp4"]["unreadable"]
    assert "Venice/Venice_4K.mp4: 64x48, 30 fps, 10.0 s, h264" in capsys.readouterr().out


def test_a_half_unpacked_archive_is_made_whole(download: Download, tmp_path: Path) -> None:
    """The archive beside what an unpacking that broke off has left of it."""
    source = miniatures.write("davis2017", tmp_path / "mine", tmp_path / "work")
    for name, share in (("JPEGImages/480p/bear/00000.jpg", 1.0), ("JPEGImages/480p/bear/00001.jpg", 0.4)):
        whole = (tmp_path / "work/DAVIS" / name).read_bytes()
        place = source / "DAVIS" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(whole[: int(len(whole) * share)])
    assert download(card="davis2017", path=str(source)) == 0
    for file in (tmp_path / "work/DAVIS").rglob("*.jpg"):
        assert (download.data / file.relative_to(tmp_path / "work/DAVIS")).read_bytes() == file.read_bytes()
    other = source / "DAVIS/JPEGImages/480p/bear/00001.jpg"
    other.write_bytes(b"another picture")
    assert download(card="davis2017", path=str(source)) == 2  # nothing is lost by choosing one of two


def test_an_archive_that_ends_early_is_told(download: Download, tmp_path: Path, unsigned: None, capsys: Any) -> None:
    source = miniatures.write("coco2017", tmp_path / "mine", tmp_path / "work")
    whole = (source / "train2017.zip").read_bytes()
    (source / "train2017.zip").write_bytes(whole[: len(whole) // 2])
    assert download(card="coco2017", path=str(source)) == 2
    error = capsys.readouterr().err
    assert "the archive is damaged or ends early" in error and error.count("\n") == 1
    assert str(source / "train2017.zip") in error  # and not the copy's
    (source / "train2017.zip").write_bytes(whole)
    assert download(card="coco2017", path=str(source)) == 0
    jhmdb = miniatures.write("jhmdb", tmp_path / "other", tmp_path / "work2")
    whole = (jhmdb / "Rename_Images.tar.gz").read_bytes()
    (jhmdb / "Rename_Images.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert download(card="jhmdb", path=str(jhmdb)) == 2
    assert "the archive is damaged or ends early" in capsys.readouterr().err


def test_no_room_is_told_before_anything_is_copied(download: Download, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").mkdir()
    with (tmp_path / "mine" / "huge.mp4").open("wb") as file:
        file.truncate(12 << 40)  # takes no room itself
    if local._can_clone([tmp_path / "mine" / "huge.mp4"], tmp_path):
        pytest.skip("copies take no room on this file system")
    assert download(card="walking_tours", path=str(tmp_path / "mine")) == 4
    line = capsys.readouterr().err.strip()
    assert line.startswith("download: the disk lacks ")
    assert "12,288.0 to fetch" in line and line.count("\n") == 0
    assert not list((tmp_path / "cache").rglob("huge.mp4"))


def test_a_dataset_comes_from_a_store(download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix of S3 with VidOR's layout, a folder too deep, and a card that finds it."""
    import boto3
    from moto.server import ThreadedMotoServer

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    source = miniatures.write("vidor", tmp_path / "mine", tmp_path / "work")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="films")
        for file in (path for path in source.rglob("*") if path.is_file()):
            client.upload_file(str(file), "films", f"sets/vidor/{file.relative_to(source).as_posix()}")
        assert download(card="vidor", url="s3://films/sets/", endpoint_url=endpoint) == 0
    finally:
        server.stop()
    holds(download.data, SIMPLE["vidor"])
    assert download.said("CARD.json")["splits"] == {"train": 2, "val": 1}


def test_annotations_and_videos_that_miss_each_other_are_named(download: Download, tmp_path: Path, capsys: Any) -> None:
    source = miniatures.write("vidor", tmp_path / "mine", tmp_path / "work")
    (source / "video/0000/2400171624.mp4").unlink()
    (source / "annotation/training/0001/2400171625.json").unlink()
    assert download(card="vidor", path=str(source)) == 0
    told = capsys.readouterr().err
    assert "vidor: 1 videos have no annotations: 0001/2400171625" in told
    assert "vidor: 1 annotations belong to no videos: 0000/2400171624" in told
    assert len(download.said("CARD.json")["amiss"]) == 3


def test_frames_without_masks_are_counted_by_sequence(download: Download, tmp_path: Path, capsys: Any) -> None:
    miniatures.davis2017(tmp_path / "packed", tmp_path / "mine")
    for number in range(1, 5):
        (tmp_path / f"mine/DAVIS/Annotations/480p/bear/{number:05d}.png").unlink()
    assert download(card="davis2017", path=str(tmp_path / "mine")) == 0
    assert "davis2017: 4 frames have no masks: bear (4)" in capsys.readouterr().err
