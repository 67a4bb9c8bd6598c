"""Bad input: one clear line each, and what is good is kept."""

import contextlib
import io
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from components.common.errors import ExitCode
from tests.extract_frames.clips import Extraction
from tests.extract_frames.test_objects import document, moving, objects_by_frame, write

NOBODY = 65534


def warnings(capsys):
    return [line.split("warning: ")[1] for line in capsys.readouterr().err.splitlines() if "warning: " in line]


def test_annotations_and_videos_that_do_not_meet(extraction, clip, capsys):
    for name in ("a", "b", "c", "d"):
        shutil.copy(clip, extraction.videos / f"{name}.mp4")
    notes = extraction.videos / "annotations"
    write(notes / "a.json", document(moving(50)))
    write(notes / "b.json", '{"fps": 25, ')
    write(notes / "d.json", document(moving(50)))
    write(notes / "nowhere.json", document(moving(50)))
    (extraction.videos / "d.mp4").write_bytes(b"")
    store = extraction.store(fps=1.0, tracks="annotations")
    said = warnings(capsys)
    assert "1 track files belong to no video here: nowhere.json" in said
    assert "1 of 4 videos have no track file: c.mp4" in said
    assert "skipped d.mp4: empty file" in said
    assert any(line.startswith("no objects for b.mp4: b.json: Invalid JSON") for line in said)
    assert len(said) == 4
    assert {key for key, _ in objects_by_frame(store)} == {"a"}
    assert store.videos["n_frames"].to_pylist() == [2, 2, 2, 0]  # no frame is lost over an annotation


def test_label_maps_without_a_frame(extraction, clip, capsys):
    shutil.copy(clip, extraction.videos / "a.mp4")
    write(extraction.videos / "annotations" / "a.json", document([[(4, 0, 0, 64, 48)]] * 50))
    folder = extraction.videos / "masks" / "a"
    folder.mkdir(parents=True)
    for number in (*range(50), 50, 77):
        Image.fromarray(np.full((48, 64), 5, np.uint8)).save(folder / f"{number:05d}.png")
    (extraction.videos / "masks" / "b").mkdir()
    store = extraction.store(fps=5.0, tracks="annotations", masks="masks")
    assert warnings(capsys) == [
        "1 folders of label maps belong to no video here: b",
        "a.mp4: 52 label maps for 50 annotated frames, 00050.png is the first that has none",
    ]
    assert store.manifest["objects"] == 10


def test_two_videos_of_one_name(extraction, clip):
    for name in ("v.mp4", "v.mkv", "v/0.mp4"):
        (extraction.videos / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, extraction.videos / name)
    assert extraction.store(fps=1.0).videos["key"].to_pylist() == ["v/0", "v.mkv", "v.mp4"]


def test_a_folder_that_cannot_be_listed_stops_the_stage(extraction, clip):
    """What is in there would be missing unnoticed. Root may list everything, so a child that is nobody tries."""
    shutil.copy(clip, extraction.videos / "a.mp4")
    locked = extraction.videos / "locked"
    locked.mkdir(mode=0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.move(extraction.videos, root / "videos")
        root.chmod(0o777)
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        with multiprocessing.get_context("fork").Pool(1, os.seteuid, (user,)) as pool:
            code, said = pool.apply(run_there, (root,))
        (root / "videos" / "locked").chmod(0o755)
        assert not (root / "frames").exists()
    assert code == ExitCode.NO_ROOM
    assert said.strip() == f"extract_frames: permission denied: {root / 'videos' / 'locked'} (check the permissions)"


def run_there(root):
    os.environ["LONGTAKE_CACHE"] = str(root / "cache")
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = Extraction(root)()
    return code, said.getvalue()
