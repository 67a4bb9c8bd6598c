"""Frames a second by range from a store on loopback against local files, in one run: `python -m bench.s3`.

One process reads every frame once, in an order drawn anew each round, and compares the bytes. Cold: the cache is empty.
Warm: it holds all. Small: it holds a quarter, as with a corpus far larger than the disk; then the size of a block
decides, since each miss fetches one. The store is Versity's gateway where it is installed, else moto's server.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from components.common import outputs
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.s3.files import S3Files
from components.common.s3.params import GIB, MIB, S3Params
from components.common.s3.store import Store
from components.common.s3.upload import upload_folder

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "only-for-bench", "AWS_DEFAULT_REGION": "us-east-1"}
ADDRESS = "s3://bench/frames"
SMALL_BLOCKS = {"small, 1 MiB blocks": 1.0, "small, 64 KiB blocks": 1 / 16}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """An S3-speaking server in a process of its own; yields its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tools = Path.home() / ".cache" / "longtake-tools"
    gateway = shutil.which("versitygw", path=os.pathsep.join([str(tools), os.environ["PATH"]]))
    for name in ("root", "meta"):
        (folder / name).mkdir()
    posix = ["posix", "--sidecar", str(folder / "meta"), str(folder / "root")]
    command = [gateway, "--quiet", "--port", f"127.0.0.1:{port}", *posix] if gateway else []
    command = command or [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    given = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    running = subprocess.Popen(command, env=os.environ | given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait()
        print(f"server: {Path(command[0]).name if gateway else 'moto'}")


def build(folder: Path, frames: int) -> FrameStore:
    """A store of JPEGs of some 15 kB, as frames with a short side of 256 are, in shards of 16 MiB."""
    rng = np.random.default_rng(0)
    grain = [rng.normal(0, 9, (256, 456, 3)) + rng.integers(60, 190, 3) for _ in range(8)]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 72]
    jpegs = [cv2.imencode(".jpg", image.clip(0, 255).astype(np.uint8), quality)[1].tobytes() for image in grain]
    with FrameStoreWriter(folder, 16 * MIB) as store:
        store.add(VideoRow("v", "v.mp4"), [Frame(jpegs[i % len(jpegs)], i / 4, i) for i in range(frames)])
    outputs.mark(folder, "bench", "frames")
    return FrameStore(folder)


class Counting(Store):
    """Counts the requests for ranges."""

    requests = 0

    def read(self, *given: object, **more: object) -> bytes:
        self.requests += 1
        return super().read(*given, **more)  # type: ignore[arg-type]


def rate(store: FrameStore, local: FrameStore, places: np.ndarray, rng: np.random.Generator) -> float:
    """Frames a second of wall time over all frames in a new order; every tenth is compared."""
    order = rng.permutation(places)
    began = time.perf_counter()
    read = [store.read(*place) for place in order.tolist()]
    seconds = time.perf_counter() - began
    assert all(read[i] == local.read(*order[i]) for i in range(0, len(order), 10))
    return len(order) / seconds


def open_remote(endpoint: str, cache: Path, cache_bytes: float, block_mib: float) -> FrameStore:
    params = S3Params(endpoint_url=endpoint, cache_gib=cache_bytes / GIB, block_mib=block_mib)
    return FrameStore(S3Files(ADDRESS, Counting(params), cache))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.update(KEYS)
    rng, found = np.random.default_rng(1), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as endpoint:
        local = build(Path(folder) / "frames", args.frames)
        places = np.array([local.frames[name].to_numpy() for name in ("shard", "offset", "size")]).T
        size = int(places[:, 2].sum())
        store = Store(S3Params(endpoint_url=endpoint, timeout_s=10))
        store.call(ADDRESS, "create_bucket", Bucket="bench")
        upload_folder(store, local.path, ADDRESS)
        for number in range(args.rounds):
            cache = Path(folder) / f"cache-{number}"
            remote = open_remote(endpoint, cache, 2 * size, 1.0)
            for name, reader in (("local file", local), ("cold", remote), ("warm", remote)):
                found.setdefault(name, []).append(rate(reader, local, places, rng))
            for name, block_mib in SMALL_BLOCKS.items():
                small = open_remote(endpoint, cache / name, size / 4, block_mib)
                found.setdefault(name, []).append(rate(small, local, places, rng))
                found[f"{name}: requests"] = [small.files.store.requests]  # type: ignore[attr-defined]
    print(f"{args.frames} frames of {size / args.frames / 1000:.1f} kB, {args.rounds} rounds; median frames a second")
    base = statistics.median(found["local file"])
    for name, values in found.items():
        if not name.endswith("requests"):
            more = f"   {found[f'{name}: requests'][0]:.0f} requests" if name in SMALL_BLOCKS else ""
            print(f"  {name:22s}{statistics.median(values):9.0f}   1/{base / statistics.median(values):.1f}{more}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
