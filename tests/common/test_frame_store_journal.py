"""A store whose writing was cut off goes on behind its last whole shard and ends in the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.common.frame_store_journal import Journal
from components.common.frame_store_writer import TrackBox
from tests.common.test_frame_store import jpeg

ROOT = Path(__file__).resolve().parents[2]
SHARD_BYTES = 9000  # a few frames of these tests


def frame(number):
    """Every second has an object, every fourth a label map."""
    boxes = (TrackBox(1, "dog", 0.0, 0.0, 4.0, 4.0), TrackBox(3, "cat", 1.0, 0.0, 4.0, 4.0)) if number % 2 else ()
    return Frame(jpeg(number), number * 0.5, number * 3, number == 2, boxes, bytes(700) if number % 4 == 1 else b"")


def video(number, n_frames):
    if number % 3 == 2:
        return VideoRow(key=f"v{number}", path=f"v{number}.mp4", status="bad", reason="empty file"), []
    return VideoRow(key=f"v{number}", path=f"v{number}.mp4", fps=24.0), [frame(i) for i in range(n_frames)]


COUNTS = ([5, 0, 1, 12], [], [7, 3, 2])
PARTS = [[video(10 * p + n, count) for n, count in enumerate(counts)] for p, counts in enumerate(COUNTS)]
N_FRAMES = sum(len(frames) for part in PARTS for _, frames in part)


class CutOff(Exception):
    pass


def write(folder, journal=None, at_most=None, parts=PARTS):
    """Write or go on writing; raises CutOff after so many frames. Returns how many frames were asked for."""
    given = []

    def counted(frames):
        for each in frames:
            if len(given) == at_most:
                raise CutOff
            given.append(each)
            yield each

    with FrameStoreWriter(folder, SHARD_BYTES, objects=True, journal=journal) as store:
        done, begun = store.n_done, store.n_begun
        for part in parts:
            store.new_shard()
            for row, frames in part:
                if done:
                    done -= 1
                else:
                    store.add(row, counted(frames[begun:]))
                    begun = 0
    return len(given)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "store"
    assert write(folder) == N_FRAMES
    assert len(content(folder)) > 8  # several shards
    return folder


def cut_off(tmp_path, at_most, identity="one"):
    with pytest.raises(CutOff):
        write(tmp_path / "store", Journal(tmp_path / "journal", identity), at_most)


@pytest.mark.parametrize("at_most", range(N_FRAMES))
def test_wherever_it_was_cut_off_it_ends_in_the_same_bytes(whole, tmp_path, at_most):
    cut_off(tmp_path, at_most)
    again = write(tmp_path / "store", Journal(tmp_path / "journal", "one"))
    assert content(tmp_path / "store") == content(whole)
    FrameStore(tmp_path / "store").verify()
    assert N_FRAMES - at_most <= again <= N_FRAMES - at_most + 6  # no more than the frames of a shard are made again


def test_cut_off_again_and_again(whole, tmp_path):
    steps = 0
    while True:
        try:
            write(tmp_path / "store", Journal(tmp_path / "journal", "one"), at_most=7)
            break
        except CutOff:
            steps += 1
    assert steps >= 3 and content(tmp_path / "store") == content(whole)


def test_a_finished_store_only_gets_its_tables_again(whole, tmp_path):
    write(tmp_path / "store", Journal(tmp_path / "journal", "one"))
    assert write(tmp_path / "store", Journal(tmp_path / "journal", "one")) == 0
    assert content(tmp_path / "store") == content(whole)


@pytest.mark.parametrize("trouble", ["changed", "gone", "other store", "torn line", "stray"])
def test_only_what_is_as_it_was_left_is_kept(whole, tmp_path, trouble):
    cut_off(tmp_path, 20)
    shards = sorted((tmp_path / "store").glob("*.tar"))
    lines = tmp_path / "journal/journal.jsonl"
    if trouble == "changed":
        shards[1].write_bytes(bytes(shards[1].stat().st_size))  # another run's, of the same size
    elif trouble == "gone":
        shards[0].unlink()
    elif trouble == "torn line":
        lines.write_bytes(lines.read_bytes()[:-5])
    elif trouble == "stray":
        (tmp_path / "store/left.tar").write_text("of an older run")
    identity = "another" if trouble == "other store" else "one"
    again = write(tmp_path / "store", Journal(tmp_path / "journal", identity))
    assert content(tmp_path / "store") == content(whole)
    assert (again == N_FRAMES) == (trouble in ("gone", "other store"))
    assert all(json.loads(line) for line in lines.read_text().splitlines())


LOOP = """
import sys
from pathlib import Path
from components.common.frame_store_journal import Journal
from tests.common import test_frame_store_journal as t
folder = Path(sys.argv[1])
parts = [
    [(t.VideoRow(key=f"{n}/{row.key}", path=row.path), frames) for row, frames in part]
    for n in range(60) for part in t.PARTS
]
print("begun", flush=True)
t.write(folder / "store", Journal(folder / "journal", "one") if len(sys.argv) < 3 else None, parts=parts)
"""


def start(folder, *more):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", LOOP, folder, *more], env=env, stdout=subprocess.PIPE, text=True)


def test_killed_at_random_instants(tmp_path):
    assert start(tmp_path / "whole", "without").wait() == 0
    rng, kills = random.Random(0), 0
    for _ in range(3):
        process = start(tmp_path / "killed")
        assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert start(tmp_path / "killed").wait(timeout=120) == 0 and kills
    assert content(tmp_path / "killed/store") == content(tmp_path / "whole/store")
