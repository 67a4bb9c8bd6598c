"""Whole local copies: resumable, compared with the marker, shared by processes, bounded."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common import outputs
from components.common.errors import ExitCode, StageError
from components.common.s3 import copies
from components.common.s3.artifact import listing_below
from components.common.s3.copies import local_copy
from components.common.s3.upload import upload_folder
from tests.common.s3.proxy import Fault

ROOT = Path(__file__).resolve().parents[3]
LARGE = random.Random(3).randbytes(11 << 20)
CONTENT = {"a.txt": b"alpha", "sub/large.bin": LARGE, "sub/empty": b"", "sub/deep/c": b"c" * 1000}


@pytest.fixture(autouse=True)
def no_copy_in_use():
    yield
    while copies._in_use:
        os.close(copies._in_use.popitem()[1])


def build(folder, content):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    outputs.mark(folder, "index", "index")
    return folder


@pytest.fixture
def address(store, bucket, proxy, tmp_path):
    upload_folder(store, build(tmp_path / "made", CONTENT), f"{bucket}/data/made")
    proxy.hurt()
    return f"{bucket}/data/made"


def files(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name != outputs.MARKER}


def test_a_copy_is_equal_and_fetched_once(address, store, proxy, tmp_path):
    copy = local_copy(address, tmp_path / "copies", store)
    assert copy.name == "made"
    assert files(copy) == CONTENT
    assert outputs.content_hash(copy) == outputs.content_hash(tmp_path / "made")
    proxy.hurt()
    assert local_copy(address, tmp_path / "copies", store) == copy
    assert len(proxy.ranges()) <= 1  # the marker


def test_a_file_and_a_folder_without_marker_are_copied_too(store, bucket, tmp_path):
    store.put(f"{bucket}/metrics/a.json", b"{}")
    store.put(f"{bucket}/metrics/b.json", b"[]")
    assert local_copy(f"{bucket}/metrics/a.json", tmp_path / "copies", store).read_bytes() == b"{}"
    assert files(local_copy(f"{bucket}/metrics", tmp_path / "copies", store)) == {"a.json": b"{}", "b.json": b"[]"}
    store.put(f"{bucket}/metrics/b.json", b"{}")
    assert files(local_copy(f"{bucket}/metrics", tmp_path / "copies", store))["b.json"] == b"{}"
    with pytest.raises(StageError, match=f"nothing at this address: {bucket}/metric"):
        local_copy(f"{bucket}/metric", tmp_path / "copies", store)


def test_several_artifacts_below_one_address_are_each_compared(store, bucket, tmp_path):
    for name in ("dino", "dora"):
        upload_folder(store, build(tmp_path / name, {"w": name.encode()}), f"{bucket}/models/{name}")
    copy = local_copy(f"{bucket}/models", tmp_path / "copies", store)
    assert (copy / "dora" / "w").read_bytes() == b"dora"
    store.put(f"{bucket}/models/dora/w", b"DORA")
    with pytest.raises(StageError, match=f"not what its marker says: {bucket}/models/dora"):
        local_copy(f"{bucket}/models", tmp_path / "copies", store)
    assert not list((tmp_path / "copies").rglob("*.partial"))


def test_faults_change_nothing(address, store, proxy, tmp_path):
    proxy.hurt(
        *[Fault("cut", 100), Fault("status", 503), Fault("drop"), Fault("short", 7), Fault("reset")] * 4,
        when=lambda request: request.method == "GET" and len(proxy.requests) % 2 == 0,
    )
    assert files(local_copy(address, tmp_path / "copies", store)) == CONTENT
    assert sum(request.fault is not None for request in proxy.requests) >= 4


def test_a_store_that_goes_away_costs_only_what_is_missing(address, store, proxy, tmp_path):
    proxy.hurt(*[Fault("drop")] * 99, when=lambda request: (request.range or "").startswith("bytes=10485760-"))
    with pytest.raises(StageError, match="does not answer") as caught:
        local_copy(address, tmp_path / "copies", store)
    assert caught.value.code == ExitCode.UNREACHABLE
    proxy.hurt()
    assert files(local_copy(address, tmp_path / "copies", store)) == CONTENT
    fetched = [r for r in proxy.requests if r.range and "large" in r.path]
    assert [r.range for r in fetched] == [f"bytes=10485760-{len(LARGE) - 1}"]


def test_copies_that_nobody_uses_make_room(store, bucket, tmp_path):
    root = tmp_path / "copies"
    limit = store.params.cache_bytes
    for number in range(4):
        store.put(f"{bucket}/x/{number}", LARGE[: limit // 3])
    first = local_copy(f"{bucket}/x/0", root, store)  # in use by this process
    for number in (1, 2):
        other = subprocess.run([sys.executable, "-c", FETCH, f"{bucket}/x/{number}", root], cwd=ROOT, check=True)
        assert other.returncode == 0
    local_copy(f"{bucket}/x/3", root, store)
    left = sorted(path.name for path in root.glob("*/*"))
    assert first.exists()
    assert left == ["0", "2", "3"]


FETCH = """
import sys
from pathlib import Path
from components.common.s3.copies import local_copy
print(local_copy(sys.argv[1], Path(sys.argv[2])))
"""


def fetching(address, root, **env):
    given = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen([sys.executable, "-c", FETCH, address, str(root)], env=given, stdout=subprocess.DEVNULL)


def test_a_killed_fetch_goes_on_and_ends_equal(address, store, proxy, tmp_path):
    proxy.hurt(*[Fault("delay", 3)], when=lambda r: (r.range or "") in ("bytes=5242880-10485759",))
    running = fetching(address, tmp_path / "copies", LONGTAKE_S3="{part_mib: 5, workers: 1, timeout_s: 20}")
    deadline, root = time.monotonic() + 30, tmp_path / "copies"
    while not any(log.read_text() for log in root.rglob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    assert not list((tmp_path / "copies").glob("*/made"))
    proxy.hurt()
    assert files(local_copy(address, tmp_path / "copies", store)) == CONTENT
    assert "bytes=0-5242879" not in proxy.ranges()  # was safe already


def test_processes_wait_for_one_fetch(address, store, proxy, tmp_path):
    running = [fetching(address, tmp_path / "copies") for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert sum(r.range == "bytes=0-5242879" for r in proxy.requests) == 1
    assert files(local_copy(address, tmp_path / "copies", store)) == CONTENT


def test_a_full_disk_is_said_before_anything_is_fetched(address, store, proxy, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(StageError, match=r"the disk lacks 0\.0 GiB for this object.*free some space") as caught:
        local_copy(address, tmp_path / "copies", store)
    assert caught.value.code == ExitCode.NO_ROOM


def test_a_key_that_leaves_the_folder_is_refused(store, bucket, tmp_path):
    store.put(f"{bucket}/evil/../../x", b"x")
    if not listing_keys(store, f"{bucket}/evil"):
        pytest.skip("this server has tidied the key")
    with pytest.raises(StageError, match="its path leaves the folder"):
        listing_below(store, f"{bucket}/evil")


def listing_keys(store, address):
    return [obj.key for obj in store.listing(f"{address}/") if ".." in obj.key]


def test_a_lock_is_held_while_a_copy_is_in_use(address, store, tmp_path):
    copy = local_copy(address, tmp_path / "copies", store)
    lock = os.open(copy.parent.with_name(f"{copy.parent.name}.lock"), os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)
