"""A frame store read by range gives byte for byte what the local one gives."""

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common import outputs
from components.common.clip_index import ClipIndex
from components.common.errors import StageError
from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.common.s3.address import address_of, name_of, split
from components.common.s3.upload import upload_file, upload_folder
from tests.common.s3.proxy import Fault
from tests.common.test_frame_store import jpeg
from tests.worker import in_a_worker


def write(folder, seed=0, videos=3, frames=12):
    """Frames of some 3 kB in shards of some 40 kB; a block of these tests is 64 KiB."""
    with FrameStoreWriter(folder, 200_000) as store:
        for video in range(videos):
            rows = [Frame(jpeg(seed + 100 * video + i, 120, 100), i * 0.5, i) for i in range(frames)]
            store.add(VideoRow(key=f"v{video}", path=f"v{video}.mp4"), rows)
    outputs.mark(folder, "extract_frames", "frames")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("store") / "frames")


@pytest.fixture
def address(store, bucket, folder, proxy):
    upload_folder(store, folder, f"{bucket}/data/frames")
    proxy.hurt()
    return f"{bucket}/data/frames"


def places(store):
    return [(row["shard"], row["offset"], row["size"]) for row in store.frames.to_pylist()]


def test_same_tables_same_bytes_same_fingerprint(address, folder):
    local, remote = FrameStore(folder), FrameStore(address)
    assert remote.manifest == local.manifest
    assert remote.frames.equals(local.frames)
    assert remote.videos.equals(local.videos)
    assert (remote.n_frames, remote.fingerprint) == (local.n_frames, local.fingerprint)
    assert [remote.read(*place) for place in places(local)] == [local.read(*place) for place in places(local)]
    remote.verify()


def test_neighbours_cost_one_request_and_a_second_pass_none(address, folder, proxy):
    local, remote = FrameStore(folder), FrameStore(address)
    wanted = places(local)
    proxy.hurt()
    assert [remote.read(*place) for place in wanted] == [local.read(*place) for place in wanted]
    blocks = sum(-(-obj.size // 65536) for name, obj in remote.files.objects.items() if name.startswith("shard"))
    assert len(proxy.ranges()) <= blocks < len(wanted) / 2
    proxy.hurt()
    again = FrameStore(address)
    cold = len(proxy.requests)  # the listing and the manifest
    assert [again.read(*place) for place in reversed(wanted)] == [local.read(*place) for place in reversed(wanted)]
    assert len(proxy.requests) == cold <= 3


def test_a_read_over_several_missing_blocks_is_one_request(address, folder, proxy):
    files = FrameStore(address).files
    whole = (folder / "shard-000000.tar").read_bytes()
    proxy.hurt()
    assert files.read("shard-000000.tar", 70_000, 65_536) == whole[70_000:135_536]
    assert proxy.ranges() == ["bytes=65536-196607"]
    proxy.hurt()
    assert files.whole("shard-000000.tar") == whole
    assert proxy.ranges() == ["bytes=0-65535", f"bytes=196608-{len(whole) - 1}"]  # what was not at hand, on either side


def test_any_range_is_what_the_file_holds(address, folder):
    whole, rng = (folder / "shard-000000.tar").read_bytes(), random.Random(0)
    files, edges = FrameStore(address).files, [0, 1, 65535, 65536, 65537, 131072, len(whole) - 1, len(whole)]
    ranges = [(rng.choice(edges), rng.choice([0, 1, 65536, 140_000])) for _ in range(30)]
    ranges += [(rng.randrange(len(whole) + 9), rng.randrange(150_000)) for _ in range(30)]
    for offset, size in ranges:
        assert files.read("shard-000000.tar", offset, size) == whole[offset : offset + size], (offset, size)


def test_what_will_be_read_is_fetched_side_by_side(address, folder, proxy):
    local, remote = FrameStore(folder), FrameStore(address)
    wanted = places(local)
    blocks = {(shard, at // 65536) for shard, offset, size in wanted for at in (offset, offset + size - 1)}
    proxy.hurt(*[Fault("delay", 0.3)] * len(blocks), when=lambda request: bool(request.range))
    began = time.monotonic()
    remote.prefetch([*wanted, (77, 0, 10), (0, 10**9, 10)])  # what is not there is for the read to say
    assert time.monotonic() - began < 0.3 * len(blocks)  # three at a time
    assert len(proxy.ranges()) == len(blocks)
    proxy.hurt()
    assert [remote.read(*place) for place in wanted] == [local.read(*place) for place in wanted]
    assert not proxy.requests


@pytest.mark.parametrize("fault", [Fault("cut", 100), Fault("status", 503), Fault("drop"), Fault("short", 9)], ids=str)
def test_faults_change_nothing(address, folder, proxy, fault):
    local = FrameStore(folder)
    proxy.hurt(fault, when=lambda request: bool(request.range))
    remote = FrameStore(address)
    proxy.hurt(*[fault] * 4, when=lambda request: bool(request.range) and len(proxy.requests) % 3 == 0)
    assert [remote.read(*place) for place in places(local)] == [local.read(*place) for place in places(local)]
    assert any(request.fault for request in proxy.requests)


def test_a_store_that_is_replaced_is_an_error_and_never_a_mixture(address, folder, store, tmp_path):
    local, opened = FrameStore(folder), FrameStore(address)
    first, *_, last = places(local)
    assert opened.read(*first) == local.read(*first)
    upload_folder(store, write(tmp_path / "other", seed=7), address)
    with pytest.raises(StageError, match="was replaced while it was read"):
        opened.read(*last)
    with pytest.raises(StageError, match="was replaced while it was read"):
        in_a_worker(opened).read(*last)  # a worker that starts late sees the same store
    anew, other = FrameStore(address), FrameStore(tmp_path / "other")
    assert [anew.read(*place) for place in places(other)] == [other.read(*place) for place in places(other)]


def read_here(given):
    store, place = given
    return os.getpid(), store.read(*place)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_through_one_cache(address, folder, method, tmp_path):
    local, remote = FrameStore(folder), FrameStore(address)
    wanted = places(local)
    remote.read(*wanted[0])  # a connection is open before the workers start
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(read_here, [(remote, place) for place in wanted * 4], chunksize=3)
    assert [data for _, data in found] == [local.read(*place) for place in wanted] * 4
    assert len({pid for pid, _ in found}) > 1
    assert remote.read(*wanted[-1]) == local.read(*wanted[-1])


def test_threads_share_a_reader(address, folder):
    local, remote = FrameStore(folder), FrameStore(address)
    wanted = places(local) * 3
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda place: remote.read(*place), wanted)) == [local.read(*place) for place in wanted]


def test_what_is_wrong_with_a_store_is_said(store, bucket, address, folder, tmp_path):
    with pytest.raises(StageError, match=f"nothing at this address: {bucket}/data/none"):
        FrameStore(f"{bucket}/data/none")
    store.put(f"{bucket}/clips/a.mp4", b"x")
    with pytest.raises(StageError, match=f"no frame store here: {bucket}/clips"):
        FrameStore(f"{bucket}/clips")
    remote = FrameStore(address)
    with pytest.raises(StageError, match=f"missing shard: {address}/shard-000077.tar"):
        remote.read(77, 0, 10)
    with pytest.raises(StageError, match=f"shard ends before byte .*: {address}/shard-000000.tar"):
        remote.read(0, 10**9, 10)
    store.put(f"{address}/.longtake.uploading.partial", b"{}")
    with pytest.raises(StageError, match="not whole, an upload is under way or was broken off"):
        FrameStore(address)


def test_damage_in_the_store_is_found_by_verify(store, address, folder, tmp_path):
    damaged = bytearray((folder / "shard-000000.tar").read_bytes())
    damaged[5000] ^= 1
    (tmp_path / "x").write_bytes(damaged)
    upload_file(store, tmp_path / "x", f"{address}/shard-000000.tar")
    with pytest.raises(StageError, match=f"missing or changed since it was written: {address}/shard-000000.tar"):
        FrameStore(address).verify()


@pytest.mark.slow
def test_loader_batches_are_equal(store, bucket, tmp_path):
    """The training loader: index by address, frames by range, from worker processes."""
    import torch

    from components.pretrain.data import ClipDataset
    from components.pretrain.loader import make_loader
    from components.pretrain.plan import Crop, Photometric, ViewPlan
    from components.pretrain.sampler import EpochSampler
    from tests.pretrain.corpus import write_corpus

    frames, index = write_corpus(tmp_path, videos=2, frames=6, side=48)
    for folder in (frames, index):
        outputs.mark(folder, "x", folder.name)
        upload_folder(store, folder, f"{bucket}/data/{folder.name}")
    plan = ViewPlan("pair", 2, (Crop("global", 32, (0.4, 1.0), (Photometric(),), frames=(0, 1)),))

    def batches(frames, index):
        dataset = ClipDataset(frames, index, plan, seed=0)
        sampler = EpochSampler(len(dataset), 2, 0, steps=4)
        # spawned: the server of forks that an earlier test has started has its environment, without this bucket's keys
        loader = make_loader(dataset, sampler, 1, torch.device("cpu"), start_method="spawn")
        return [batch.views["global"].numpy() for batch in loader]

    ours = batches(f"{bucket}/data/frames", f"{bucket}/data/index")
    np.testing.assert_array_equal(ours, batches(frames, index))
    assert ClipIndex.open(f"{bucket}/data/index").path.is_relative_to(tmp_path / "cache")


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@given(bucket=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True), parts=st.lists(NAMES, max_size=4))
def test_an_address_survives_pathlib_and_splits_where_it_was_joined(bucket, parts):
    address = "/".join([f"s3://{bucket}", *parts])
    assert address_of(address) == address_of(Path(address)) == address_of(f"{address}/") == address
    assert split(address) == (bucket, "/".join(parts))
    assert name_of(address) == (parts[-1] if parts else bucket)


def test_an_address_is_known_in_every_spelling():
    assert address_of("s3://b/x/") == address_of(Path("s3://b/x")) == address_of("s3:/b/x") == "s3://b/x"
    assert address_of("s3://b") == "s3://b"
    assert address_of("data/s3") is address_of(Path("/s3:/x")) is address_of("timm:x") is None
    with pytest.raises(StageError, match="an address without a bucket"):
        address_of("s3://")
