"""The leakage check through the stage: copies are found whatever their size and quality, others are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.common.clip_index import EXCLUDED, TRAIN, ClipIndex
from components.common.frame_store import Frame, FrameStoreWriter, VideoRow
from components.common.stage import main
from components.index.__main__ import STAGE, run
from components.index.leakage import benchmark_files

from .conftest import jpeg, make_store, picture, shifted

VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips; the benchmark `vos` has clip1 at half size and poor quality, `knn` has only other scenes."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "frames", {f"clip{i}": picture(i) for i in range(3)})
    sequence = tmp_path / "benchmarks" / "vos" / "JPEGImages" / "480p" / "renamed"
    sequence.mkdir(parents=True)
    for step in range(8):
        small = cv2.resize(shifted(picture(1), step), (64, 48), interpolation=cv2.INTER_AREA)
        (sequence / f"{step:05d}.jpg").write_bytes(jpeg(small, 50))
    for number in range(5):
        place = tmp_path / "benchmarks" / "knn" / "train" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(jpeg(picture(100 + number)))
    draws = {"frame": {"offsets_s": [0]}, "pair": {"offsets_s": [0, 0.5]}}
    (tmp_path / "params.yaml").write_text(json.dumps({"seed": 0, "index": {"c": {"draws": draws}}}))
    return tmp_path


def index(*more: str, benchmarks: str | None = "benchmarks") -> int:
    where = ["--benchmarks", benchmarks] if benchmarks else []
    places = ["--frames", "frames", "--index", "out/c", "--leakage", "out/c.leakage.json"]
    return main(STAGE, run, ["--corpus", "c", *places, *where, *more])


def leakage() -> dict:
    return json.loads(Path("out/c.leakage.json").read_text())


def drawn_videos() -> set[int]:
    opened = ClipIndex("out/c")
    return {int(video) for name in opened.draw_names for video in opened.columns["video"][opened.draw(name)].ravel()}


def test_the_copied_clip_is_found_and_left_out(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert index() == 0
    report = leakage()
    assert report["checked"] is True
    vos, knn = report["benchmarks"]["vos"], report["benchmarks"]["knn"]
    assert vos["training_videos"] == report["excluded_videos"] == ["clip1"]
    assert (vos["images"], vos["images_checked"]) == (8, 8)
    assert 2 <= vos["matching_images"] <= 8
    found = {(match["image"], match["video"], match["pts_s"]) for match in vos["examples"]}
    assert found >= {(f"JPEGImages/480p/renamed/{6 * s:05d}.jpg", "clip1", float(s)) for s in range(2)}
    assert vos["examples"] == sorted(vos["examples"], key=lambda match: match["bits"])
    assert (knn["images_checked"], knn["matching_images"], knn["training_videos"]) == (5, 0, [])
    assert drawn_videos() == {0, 2}
    split = ClipIndex("out/c").columns["split"]
    assert split.tolist() == [TRAIN] * 12 + [EXCLUDED] * 12 + [TRAIN] * 12
    assert ClipIndex("out/c").meta["excluded_videos"] == ["clip1"]
    assert "1 of 3 training videos also occur in benchmarks" in capfd.readouterr().err
    assert json.loads(Path("out/c/stats.json").read_text())["videos"] == {
        "all": 3, "bad": 0, "copies": 0, "excluded": 1, "train": 2, "val": 0,
    }  # fmt: skip


def frames_of(file: Path, first: int, step: int, n: int, side: int) -> list[np.ndarray]:
    """`n` frames of a video file, RGB, scaled to a short side."""
    capture, images = cv2.VideoCapture(str(file)), []
    for number in range(first + step * (n - 1) + 1):
        ok = capture.grab()
        assert ok, (file, number)
        if number >= first and (number - first) % step == 0:
            bgr = capture.retrieve()[1]
            height, width = bgr.shape[:2]
            size = round(width * side / min(height, width)), round(height * side / min(height, width))
            images.append(np.ascontiguousarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)[:, :, ::-1]))
    return images


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real clips are not on this machine")
def test_a_real_clip_cut_out_and_compressed_again_is_found(world: Path) -> None:
    with FrameStoreWriter(world / "frames") as store:
        for name in ("sam2_bedroom", "drive_solidWhiteRight", "bikes_multishot"):
            images = frames_of(VIDEOS / f"{name}.mp4", 0, 5, 20, side=256)
            store.add(VideoRow(name, f"{name}.mp4"), [Frame(jpeg(im), i / 5, 5 * i) for i, im in enumerate(images)])
    stolen = frames_of(VIDEOS / "drive_solidWhiteRight.mp4", 13, 3, 16, side=120)
    for number, image in enumerate(stolen):
        (world / "benchmarks" / "vos" / "JPEGImages" / f"{number}.jpg").write_bytes(jpeg(image, 40))
    assert index("--set", "draws.pair.offsets_s=[0, 0.4]") == 0
    assert leakage()["excluded_videos"] == ["drive_solidWhiteRight"]
    assert leakage()["benchmarks"]["vos"]["matching_images"] >= 2


def test_warn_keeps_the_video(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert index("--set", "on_leak=warn") == 0
    assert drawn_videos() == {0, 1, 2}
    assert leakage()["excluded_videos"] == []
    assert leakage()["benchmarks"]["vos"]["training_videos"] == ["clip1"]
    assert "kept, as on_leak says" in capfd.readouterr().err


def test_fail_stops_and_writes_nothing(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert index("--set", "on_leak=fail") == 2
    error = capfd.readouterr().err
    assert "also occur in benchmarks" in error
    assert "clip1" in error
    assert "Traceback" not in error
    assert not Path("out/c").exists()
    assert not Path("out/c.leakage.json").exists()


def test_when_every_video_leaks(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = world / "benchmarks" / "vos"
    for clip in (0, 2):
        (place / f"{clip}.png").write_bytes(jpeg(picture(clip)))
    assert index() == 2
    assert "no video is left to train on: 3 occur in a benchmark, 0 are held out" in capfd.readouterr().err


def test_without_benchmarks(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert index(benchmarks=None) == 0
    assert "leakage into benchmarks was not checked" in capfd.readouterr().err
    assert leakage()["checked"] is False
    assert leakage()["benchmarks"] == {}
    assert drawn_videos() == {0, 1, 2}


def test_missing_or_empty_benchmarks(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (world / "empty").mkdir()
    assert index(benchmarks="empty") == 2
    assert "no benchmark folders here: empty" in capfd.readouterr().err
    (world / "benchmarks" / "videos_only").mkdir()
    (world / "benchmarks" / "videos_only" / "a.mp4").write_bytes(b"")
    assert index() == 0
    assert "'videos_only' has no images to compare" in capfd.readouterr().err
    assert leakage()["benchmarks"]["videos_only"]["video_files_not_checked"] == 1


def test_dark_frames_raise_no_alarm(world: Path) -> None:
    dark = np.zeros((96, 128, 3), np.uint8)
    make_store(world / "frames", {"dark": dark, "clip0": picture(0)})
    for number in range(3):
        image = dark + np.uint8(number)
        (world / "benchmarks" / "knn" / f"dark{number}.png").write_bytes(jpeg(image))
    assert index() == 0
    assert leakage()["excluded_videos"] == []
    assert leakage()["benchmarks"]["knn"]["images_without_texture"] == 3


def test_unreadable_benchmark_images_are_counted(world: Path) -> None:
    (world / "benchmarks" / "knn" / "broken.jpg").write_bytes(b"not a picture")
    assert index() == 0
    assert leakage()["benchmarks"]["knn"]["images_unreadable"] == 1


def test_a_limit_spreads_the_checked_images(world: Path) -> None:
    assert index("--set", "fingerprint.max_images=4") == 0
    vos = leakage()["benchmarks"]["vos"]
    assert (vos["images"], vos["images_checked"]) == (8, 4)
    assert vos["training_videos"] == ["clip1"]


def test_label_images_are_not_compared(tmp_path: Path) -> None:
    names = [
        "JPEGImages/a.jpg", "images/b.PNG", "Annotations/a.png", "SegmentationClass/x/a.png", "MASKS/a.png",
        "images/labels.png", ".hidden/a.jpg", "images/notes.txt", "clip.MP4",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(tmp_path / "images" / "labels.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "b.PNG")
    images, videos = benchmark_files(tmp_path, ("annotations", "masks", "segmentationclass"))
    assert [image.relative_to(tmp_path).as_posix() for image in images] == ["JPEGImages/a.jpg", "images/b.PNG"]
    assert videos == 1
