"""Extraction in parts: any number of parts, merged in any order, gives the bytes of the run in one piece."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common import frame_store_merge, hashing, outputs
from components.common.errors import ExitCode, StageError
from components.common.frame_store import FrameStore
from components.common.stage import main
from components.extract_frames.__main__ import STAGE, run
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source
from components.extract_frames.parts import cut, parse_part
from tests.extract_frames.clips import encode, ffmpeg

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"fps": 10.0, "short_side_px": 64, "cuts": {}, "shard_mb": 1, "max_bad_share": 0.5}


def content(store):
    return {file.name: file.read_bytes() for file in store.iterdir()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Seven videos of very different sizes, of which two neighbours and the last are bad."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, seconds in {"a/0": 0.4, "a/1": 3.0, "b/4": 1.0, "c/5": 0.2}.items():
        encode(folder / f"{name}.mp4", f"testsrc2=s=160x120:r=25:d={seconds}")
    for name in ("b/2", "b/3", "d/6"):
        (folder / f"{name}.mp4").parent.mkdir(exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(b"not a video" * 2000)
    return folder


@pytest.fixture
def extraction(extraction, corpus):
    extraction.videos.rmdir()
    extraction.videos = corpus
    return extraction


class Fan:
    """The stage as a cluster runs it: a command for each part, then the merge."""

    def __init__(self, extraction, n):
        self.extraction, self.n = extraction, n
        self.folders = [extraction.root / f"part-{n}-{number}" / "frames" for number in range(n)]
        self.params = {**PARAMS, "parts": n}

    def part(self, number, **params):
        where = [
            "--videos",
            self.extraction.videos,
            "--frames",
            self.folders[number],
            "--part",
            f"{number + 1}/{self.n}",
        ]
        return self.extraction.command(*where, **{**self.params, **params})

    def parts(self):
        assert [self.part(number) for number in range(self.n)] == [ExitCode.OK] * self.n
        return self

    def merge(self, *folders, **params):
        given = [word for folder in folders or self.folders for word in ("--merge", folder)]
        place = self.extraction.root / f"merged-{self.n}"
        return self.extraction.command(*given, "--frames", place, **{**self.params, **params})

    @property
    def merged(self):
        return self.extraction.root / f"merged-{self.n}"


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_merged_parts_are_the_store_of_one_run(extraction, n):
    fan = Fan(extraction, n).parts()
    assert fan.merge(*fan.folders[::-1]) == ExitCode.OK
    whole = extraction.store(**fan.params)
    assert content(fan.merged) == content(whole.path)  # .longtake.json with its content hash is among them
    assert outputs.content_hash(fan.merged) == hashing.tree_hash(fan.merged)
    assert (whole.n_frames, len(whole.videos), whole.manifest["videos_bad"]) == (46, 7, 3)
    videos = [FrameStore(folder).videos["path"].to_pylist() for folder in fan.folders]
    assert [path for part in videos for path in part] == whole.videos["path"].to_pylist()


def test_each_part_begins_a_shard(extraction):
    whole = extraction.store(**PARAMS, parts=5)
    assert whole.manifest["shards"] > extraction.store(**PARAMS).manifest["shards"] == 1
    assert "part" not in whole.manifest


def test_a_merge_may_be_given_the_folder_of_all_parts_or_kubeflow_s_list(extraction):
    fan = Fan(extraction, 2).parts()
    assert fan.merge() == ExitCode.OK
    expected = content(fan.merged)
    together = extraction.root / "together"
    together.mkdir()
    for number, folder in enumerate(fan.folders):
        (together / str(number)).symlink_to(folder)
    assert fan.merge(together) == ExitCode.OK
    assert content(fan.merged) == expected
    listed = [{"name": "frames", "uri": str(folder)} for folder in fan.folders]
    outputs = {"outputFile": str(extraction.root / "out.json"), "artifacts": {"frames": {"artifacts": [{}]}}}
    told = json.dumps({"inputs": {"artifacts": {"merge": {"artifacts": listed}}}, "outputs": outputs})
    shutil.rmtree(fan.merged)
    assert extraction.command("--executor-input", told, "--frames", fan.merged, **fan.params) == ExitCode.OK
    assert content(fan.merged) == expected
    said = json.loads((extraction.root / "out.json").read_text())["artifacts"]["frames"]["artifacts"][0]["metadata"]
    assert said == {"n_frames": 46, "n_videos": 7, "n_bad": 3}


def test_the_share_of_bad_videos_is_judged_in_the_merge(extraction, capsys):
    fan = Fan(extraction, 7).parts()
    assert "[extract_frames@c 7/7] 2 frames of 1 videos, 1 skipped" in capsys.readouterr().out
    bad = [FrameStore(folder).manifest for folder in fan.folders]
    assert any(store["videos_bad"] == store["videos"] > 0 for store in bad)  # a part of bad videos alone is a part
    assert fan.merge(max_bad_share=0.4) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "3 of 7 videos are unreadable, 2 may be: b/2.mp4 (" in said and "d/6.mp4 (" in said
    assert not fan.merged.exists()
    assert extraction(**{**fan.params, "max_bad_share": 0.4}) == ExitCode.BAD_INPUT
    alone = capsys.readouterr().err.strip().splitlines()[-1]
    assert alone == said.strip().splitlines()[-1]
    assert fan.merge(workers=7) == ExitCode.OK  # what no byte depends on may differ


def test_parts_that_do_not_belong_together_are_refused(extraction, capsys, tmp_path):
    fan = Fan(extraction, 3).parts()
    first, second, third = fan.folders

    def refused(line, *folders, **params):
        assert fan.merge(*folders, **params) == ExitCode.BAD_INPUT
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert line in said
        assert not fan.merged.exists()

    refused("of 3 parts these are missing: 2 (extract them first)", first, third)
    refused("of 3 parts these are missing: 2, 3", third.parent.parent / first.relative_to(first.parent.parent))
    refused("part 2/3 is there twice", first, second, third, second)
    refused("part 1/3, but the parameter 'parts' is 4", parts=4)
    refused("was extracted with other parameters", quality=9)
    assert extraction(**PARAMS) == ExitCode.OK
    refused("this frame store is no part of a larger one", first, second, extraction.place)
    refused("no frame store here", first, second, tmp_path)
    refused("input 'merge' does not exist", first, second, tmp_path / "away")
    assert extraction.command("--merge", first, "--merge", second, "--merge", third, "--frames", third, **fan.params)
    assert "output 'frames' would replace a part" in capsys.readouterr().err
    shutil.copytree(extraction.videos, tmp_path / "more")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.2", tmp_path / "more" / "z.mp4")
    extraction.videos = tmp_path / "more"
    assert fan.part(1) == ExitCode.OK
    refused("part 2/3 was extracted from other videos than part 1/3")


def test_a_merge_that_is_interrupted_leaves_no_store_and_can_be_done_again(extraction, monkeypatch):
    fan = Fan(extraction, 5).parts()
    before = [content(folder) for folder in fan.folders]
    link, linked = frame_store_merge._link, []

    def interrupted(*args):
        linked.append(args)
        if len(linked) > 1:
            raise KeyboardInterrupt
        link(*args)

    monkeypatch.setattr(frame_store_merge, "_link", interrupted)
    assert fan.merge() == ExitCode.INTERRUPTED
    assert linked and not fan.merged.exists()
    monkeypatch.setattr(frame_store_merge, "_link", link)
    assert fan.merge() == ExitCode.OK
    assert content(fan.merged) == content(extraction.store(**fan.params).path)
    assert [content(folder) for folder in fan.folders] == before


@pytest.mark.skipif(
    not Path("/proc/self/mounts").exists() or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_disk_too_small_for_the_copies_is_said_so_and_the_parts_stay(extraction, capsys):
    fan = Fan(extraction, 2).parts()
    before = [content(folder) for folder in fan.folders]
    small = extraction.root / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        given = [word for folder in fan.folders for word in ("--merge", folder)]
        assert extraction.command(*given, "--frames", small / "frames", **fan.params) == ExitCode.NO_ROOM
        assert "the disk is full" in capsys.readouterr().err
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
    assert [content(folder) for folder in fan.folders] == before
    assert fan.merge() == ExitCode.OK


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "the input 'videos' is missing (name the folder with --videos)"),
        (["--part", "1/2"], "the input 'videos' is missing"),
        (["--videos", ".", "--part", "0/2"], "--part takes NUMBER/PARTS, such as 1/8 to 8/8, got '0/2'"),
        (["--videos", ".", "--part", "3/2"], "--part takes NUMBER/PARTS, such as 1/8 to 8/8, got '3/2'"),
        (["--videos", ".", "--part", "2/3"], "--part 2/3, but the parameter 'parts' is 2 (make both the same)"),
        (["--videos", ".", "--merge", "."], "--merge takes finished parts, and neither --videos nor --part"),
        (["--merge", ".", "--part", "1/2"], "--merge takes finished parts, and neither --videos nor --part"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(extraction, capsys, args, line):
    given = [extraction.videos if arg == "." else arg for arg in args]
    assert extraction.command(*given, "--frames", extraction.place, **PARAMS, parts=2) == ExitCode.BAD_INPUT
    assert line in capsys.readouterr().err
    assert not extraction.place.exists()


def test_parts_at_work_together_keep_their_resumable_work_apart(extraction):
    """All pods share one cache: a part that ends must not clear away what another has done so far."""
    fan = Fan(extraction, 2)
    stage = [sys.executable, "-m", "components.extract_frames", "--corpus", "c"]
    given = f"extract_frames.c={json.dumps({'mode': 'fps', **fan.params})}"
    pods = [
        subprocess.Popen(
            [*stage, "--param", given, "--videos", extraction.videos, "--frames", folder, "--part", f"{number + 1}/2"],
            cwd=ROOT, stdout=subprocess.DEVNULL,
        )
        for number, folder in enumerate(fan.folders)
    ]  # fmt: skip
    assert [pod.wait() for pod in pods] == [0, 0]
    assert fan.merge() == ExitCode.OK
    assert content(fan.merged) == content(extraction.store(**fan.params).path)


def sources(sizes):
    return [Source(Path(str(n)), str(n), str(n), None, size) for n, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 10**12), max_size=60), st.integers(1, 40))
def test_the_list_is_cut_in_order_into_parts_of_about_equal_bytes(sizes, n):
    videos = sources(sizes)
    parts = cut(videos, n)
    assert len(parts) == n
    assert [video for part in parts for video in part] == videos
    for part in parts:
        weights = [video.size for video in part]
        inner = sum(weights) - (weights[0] + weights[-1]) / 2 if weights else 0
        assert inner <= sum(sizes) / n * (1 + 1e-12)


def test_a_cut_by_hand():
    def by_hand(sizes, n):
        return [[video.size for video in part] for part in cut(sources(sizes), n)]

    assert by_hand([1, 1, 1, 1], 2) == [[1, 1], [1, 1]]
    assert by_hand([9, 1, 1, 1], 2) == [[9], [1, 1, 1]]
    assert by_hand([1, 9, 1], 3) == [[1], [9], [1]]
    assert by_hand([5], 3) == [[], [5], []]
    assert by_hand([0, 0], 2) == [[0, 0], []]
    assert by_hand([3, 0], 2) == [[], [3, 0]]


@given(st.text(max_size=12))
def test_any_text_is_a_part_or_refused(text):
    params = ExtractParams(fps=1.0, parts=8)
    try:
        assert parse_part(text, params) == int(text.removesuffix("/8")) <= 8
    except StageError as error:
        assert "--part" in str(error)


@given(st.integers(1, 8))
def test_a_part_is_named_by_its_number_and_their_count(number):
    assert parse_part(f"{number}/8", ExtractParams(fps=1.0, parts=8)) == number


def test_the_declaration_tells_the_compiler_of_parts_and_merge(capsys):
    with pytest.raises(SystemExit):
        main(STAGE, run, ["--describe"])
    said = json.loads(capsys.readouterr().out)
    assert list(said["options"]) == ["part"]
    assert said["inputs"]["merge"] == {"kind": "dir", "type": "Dataset", "optional": True, "many": True}
    assert said["inputs"]["videos"] == {"kind": "dir", "type": "Dataset", "optional": True, "many": False}
