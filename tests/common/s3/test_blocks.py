"""The block cache: bounded at every instant, shared by processes, never wrong."""

import errno
import multiprocessing
import os
import random
import time

import pytest

from components.common.s3 import blocks
from components.common.s3.blocks import CRC_BYTES, BlockCache

SIZE = 1000


def content(number):
    return random.Random(number).randbytes(SIZE)


def name(number):
    return f"{number % 7:02x}-{number}"


def on_disk(root):
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and path.parent != root)


def age(cache, number, seconds):
    file = cache._file(name(number))
    os.utime(file, (time.time() - seconds,) * 2)


def test_what_was_put_is_read_in_pieces(tmp_path):
    cache = BlockCache(tmp_path / "blocks", 10 * SIZE)
    assert cache.read(name(1), 0, 10, SIZE) is None
    cache.put(name(1), content(1))
    assert cache.read(name(1), 0, SIZE, SIZE) == content(1)
    assert cache.read(name(1), 100, 117, SIZE) == content(1)[100:117]
    assert cache.read(name(1), 5, 5, SIZE) == b""
    assert BlockCache(tmp_path / "blocks", 10 * SIZE).read(name(1), 0, SIZE, SIZE) == content(1)


def test_the_least_recently_used_go_first(tmp_path):
    cache = BlockCache(tmp_path, 8 * (SIZE + CRC_BYTES))
    for number in range(8):
        cache.put(name(number), content(number))
        age(cache, number, 1000 - number)
    assert cache.read(name(0), 0, 1, SIZE) is not None  # the oldest, but used just now
    cache.put(name(8), content(8))
    left = [number for number in range(9) if cache.read(name(number), 0, 1, SIZE) is not None]
    assert left == [0, 3, 4, 5, 6, 7, 8]  # 7/8 of the limit stays, the new block included
    assert on_disk(tmp_path) <= 8 * (SIZE + CRC_BYTES)


def test_a_damaged_or_short_block_is_fetched_again(tmp_path):
    cache = BlockCache(tmp_path, 10 * SIZE)
    for number, hurt in ((1, lambda data: data[:-1]), (2, lambda data: b"\0" * len(data)), (3, lambda data: b"")):
        cache.put(name(number), content(number))
        file = cache._file(name(number))
        file.write_bytes(hurt(file.read_bytes()))
        assert BlockCache(tmp_path, 10 * SIZE).read(name(number), 0, 10, SIZE) is None
        assert not file.exists()


def test_an_eviction_takes_nothing_from_a_reader(tmp_path):
    cache = BlockCache(tmp_path, 4 * (SIZE + CRC_BYTES))
    cache.put(name(1), content(1))
    read_whole, check = os.pread, cache._is_sound

    def evicted_meanwhile(*given):
        cache._file(name(1)).unlink()
        return check(*given)

    cache._is_sound = evicted_meanwhile
    assert cache.read(name(1), 0, SIZE, SIZE) == content(1)
    assert read_whole is os.pread


def test_a_killed_writer_leaves_nothing_that_counts_for_a_block(tmp_path):
    cache = BlockCache(tmp_path, 4 * (SIZE + CRC_BYTES))
    cache.put(name(1), content(1))
    (tmp_path / name(1)[:2] / f"77-1-0{blocks.PARTIAL}").write_bytes(b"x" * 3 * SIZE)  # left by a killed process
    for number in range(2, 30):
        cache.put(name(number), content(number))
        assert on_disk(tmp_path) <= 4 * (SIZE + CRC_BYTES) + 3 * SIZE
    assert not list(tmp_path.rglob(f"*{blocks.PARTIAL}"))  # evicted like any other


def test_a_count_that_was_lost_is_counted_anew(tmp_path):
    cache = BlockCache(tmp_path, 4 * (SIZE + CRC_BYTES))
    for number in range(4):
        cache.put(name(number), content(number))
    for text in ("", "nonsense", "-1"):
        (tmp_path / "bytes").write_text(text)
        cache.put(name(9), content(9))
        assert on_disk(tmp_path) <= 4 * (SIZE + CRC_BYTES)
        assert cache.read(name(9), 0, SIZE, SIZE) == content(9)


def test_a_full_disk_makes_the_cache_smaller(tmp_path, monkeypatch):
    cache = BlockCache(tmp_path, 100 * SIZE)
    for number in range(8):
        cache.put(name(number), content(number))
        age(cache, number, 1000 - number)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    cache.put(name(9), content(9))
    assert [number for number in range(8) if cache.read(name(number), 0, 1, SIZE) is not None] == [4, 5, 6, 7]
    assert int((tmp_path / "bytes").read_text()) == on_disk(tmp_path)


def work(root, seed, results):
    """Read and write random blocks for a while, as loader workers do; report what was wrong."""
    cache, rng, wrong, most, hits = BlockCache(root, 20 * (SIZE + CRC_BYTES)), random.Random(seed), 0, 0, 0
    for step in range(400):
        number = rng.randrange(40)
        got = cache.read(name(number), 0, SIZE, SIZE)
        if got is None:
            cache.put(name(number), content(number))
        else:
            hits += 1
            wrong += got != content(number)
        if step % 20 == 0:
            most = max(most, int((root / "bytes").read_text()))
    results.put((wrong, most, hits))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_a_cache_that_stays_bounded_and_right(tmp_path, method):
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [context.Process(target=work, args=(tmp_path, seed, results)) for seed in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(10)
    assert [wrong for wrong, _, _ in found] == [0] * 4
    assert max(most for _, most, _ in found) <= 20 * (SIZE + CRC_BYTES)
    assert sum(hits for _, _, hits in found) > 100
    assert on_disk(tmp_path) <= 20 * (SIZE + CRC_BYTES)
