"""The same bytes whatever happened on the way: kills, the number of workers, the order of finishing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.common.errors import ExitCode, StageError
from components.common.frame_store_shards import ShardWriter
from components.extract_frames import video
from components.extract_frames.command import build_command
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import find_sources
from components.extract_frames.finished import Finished
from tests.extract_frames.clips import encode

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"mode": "fps", "fps": 10, "short_side_px": 64, "max_bad_share": 0.5, "cuts": {}, "shard_mb": 1}


def content(store):
    return {file.name: file.read_bytes() for file in store.iterdir()}


@pytest.fixture
def corpus(extraction):
    for n in range(6):
        encode(extraction.videos / f"{n % 2}" / f"{n}.mp4", f"testsrc2=s=160x120:r=25:d={1 + n / 2}")
    (extraction.videos / "broken.mp4").write_text("not a video")
    return extraction


PIECES = {"piece_s": 0.5, "split_mb": 0}


def start(corpus, name, workers=1, **more):
    """The stage as a user starts it; its cache is named after the output, so that each has its own past."""
    given = json.dumps({**PARAMS, "workers": workers, **more})
    command = [sys.executable, "-m", "components.extract_frames", "--corpus", "c", "--videos", corpus.videos]
    env = {**os.environ, "LONGTAKE_CACHE": str(corpus.root / f"cache-{name}"), "PYTHONPATH": str(ROOT)}
    where = ["--frames", corpus.root / name, "--param", f"extract_frames.c={given}"]
    return subprocess.Popen([*command, *where], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def n_finished(corpus, name):
    manifests = (corpus.root / f"cache-{name}").rglob("manifest.jsonl")
    return sum(line.endswith(b"\n") for file in manifests for line in file.read_bytes().splitlines(keepends=True))


def kill_and_wait(process, how):
    process.send_signal(how)
    return process.wait(timeout=30)


@pytest.mark.parametrize(
    ("how", "more", "least", "most"),
    [
        (signal.SIGKILL, {}, 2, 5),
        (signal.SIGKILL, PIECES, 9, 60),
        pytest.param(signal.SIGTERM, {}, 2, 5, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(corpus, how, more, least, most):
    assert corpus(**PARAMS, workers=2) == ExitCode.OK
    process = start(corpus, "killed", **more)
    while n_finished(corpus, "killed") < least and process.poll() is None:
        time.sleep(0.005)
    assert kill_and_wait(process, how) != 0
    assert not (corpus.root / "killed").exists()
    before = n_finished(corpus, "killed")
    assert least <= before <= most
    assert start(corpus, "killed", **more).wait() == 0
    assert not n_finished(corpus, "killed")  # done with
    assert content(corpus.root / "killed") == content(corpus.place)


@pytest.mark.slow
def test_kills_at_random_instants(corpus):
    assert corpus(**PARAMS, workers=2) == ExitCode.OK
    rng, kills = random.Random(0), 0
    for _ in range(15):
        process = start(corpus, "killed", workers=1 + kills % 2, **PIECES)
        try:
            process.wait(timeout=rng.uniform(0.2, 2.5))
        except subprocess.TimeoutExpired:
            kills += kill_and_wait(process, signal.SIGKILL) != 0
    assert kills
    assert start(corpus, "killed", **PIECES).wait() == 0
    assert content(corpus.root / "killed") == content(corpus.place)


def test_a_finished_video_is_not_decoded_again(corpus, monkeypatch, capsys):
    decoded = []
    extract = video.Decoder.extract

    def die_at_the_fourth(self, source, jpegs):
        if len(decoded) == 3:
            raise KeyboardInterrupt
        decoded.append(source.name)
        return extract(self, source, jpegs)

    monkeypatch.setattr(video.Decoder, "extract", die_at_the_fourth)
    assert corpus(**PARAMS, workers=1) == ExitCode.INTERRUPTED
    done, decoded[:] = list(decoded), ["", ""]
    monkeypatch.setattr(video.Decoder, "extract", lambda *args: decoded.append(args[1].name) or extract(*args))
    assert corpus(**PARAMS, workers=1) == ExitCode.OK
    assert not set(done) & set(decoded)


def test_a_store_cut_off_while_it_was_put_together_goes_on_behind_its_last_shard(corpus, monkeypatch):
    assert corpus(**PARAMS, parts=3) == ExitCode.OK
    whole, append, put = content(corpus.place), ShardWriter.append, []
    n_frames, corpus.place = corpus.store(**PARAMS, parts=3).n_frames, corpus.root / "again"

    def counted(self, *members):
        put.append(members)
        if len(put) == n_frames - 5:
            raise KeyboardInterrupt
        return append(self, *members)

    monkeypatch.setattr(ShardWriter, "append", counted)
    assert corpus(**PARAMS, parts=3) == ExitCode.INTERRUPTED
    assert not corpus.place.exists()
    put.clear()
    assert corpus(**PARAMS, parts=3) == ExitCode.OK
    assert 5 < len(put) < n_frames / 2 and content(corpus.place) == whole


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_ffmpeg_that_is_killed_makes_no_short_video(corpus, monkeypatch, how):
    """ffmpeg ends in good order at SIGTERM and leaves half a video; it must not pass for a whole one."""

    def endless(*args):
        command = build_command(*args)
        at = command.index("-i")
        return [*command[:at], "-stream_loop", "-1", *command[at:]]

    monkeypatch.setattr(video, "build_command", endless)
    decoder, finished = video.Decoder(ExtractParams(**PARAMS)), Finished(corpus.root)
    source = find_sources(corpus.videos)[0]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(finished.make, source, decoder)
        while not decoder._running:
            time.sleep(0.005)
        time.sleep(0.3)
        next(iter(decoder._running)).send_signal(how)
        with pytest.raises(StageError, match="ffmpeg was killed"):
            job.result(timeout=20)
    assert not finished.has(source)
    assert not any(file.stat().st_size for file in finished.folder.iterdir())


@pytest.mark.skipif(
    not Path("/proc/self/mounts").exists() or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_full_disk_is_said_so_and_harms_nothing(corpus, capsys, monkeypatch):
    small = corpus.root / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        monkeypatch.setenv("LONGTAKE_CACHE", str(small / "cache"))
        assert corpus(**PARAMS, workers=2) == ExitCode.NO_ROOM
        assert "the disk is full" in capsys.readouterr().err
        assert not corpus.place.exists()
        assert not list(small.rglob("*.partial"))
    finally:
        subprocess.run(["umount", small], check=True)
