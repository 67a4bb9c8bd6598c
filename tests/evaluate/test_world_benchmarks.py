"""The sample world's miniatures are read as the real benchmarks are, and their truth scores full marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.progress import Progress
from components.download.world import WorldParams, write_world
from components.evaluate.layouts.got10k import read_got10k
from components.evaluate.layouts.jhmdb import read_jhmdb
from components.evaluate.layouts.vip import label_root, read_vip
from components.evaluate.parts_score import score_parts
from components.evaluate.tasks import pose, tracking
from components.evaluate.tracking_score import score_tracks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = WorldParams(
        layouts=["jhmdb", "vip", "got10k"], train_clips=0, val_clips=2, clip_s=0.8, fps=5, width_px=96, height_px=64,
        workers=1,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("world")
    with Progress(0, "clips") as progress:
        write_world(params, out, tmp_path_factory.mktemp("scratch"), progress)
    return out


def test_joints(world: Path) -> None:
    clips = read_jhmdb(world / "jhmdb")
    assert [(len(c.frames), c.joints.shape, c.width) for c in clips] == [(4, (4, 15, 2), 96)] * 2
    inside = [(c.joints.clip(0), c.joints.clip(0)) for c in clips]
    assert pose.score(inside, pose.Args.model_validate({}))[0]["pck_0.1"] == 1.0


def test_parts(world: Path) -> None:
    videos = read_vip(world / "vip")
    assert [len(v.masks) for v in videos] == [4, 4]
    labels = label_root(world / "vip")
    found = score_parts(labels, labels, [v.name for v in videos])
    assert found["metrics"]["miou"] == 1.0
    assert sum(row["iou"] is not None for row in found["classes"]) > 5


def test_boxes(world: Path, tmp_path: Path) -> None:
    videos = read_got10k(world / "got10k")
    assert [(len(f), t.bound) for t, f in videos] == [(4, (96, 64))] * 2
    for track, _ in videos:
        tracking.write_boxes(tmp_path / track.name / f"{track.name}_001.txt", track.boxes)
    assert score_tracks([t for t, _ in videos], tmp_path).summary()["ao"] == pytest.approx(1.0)
