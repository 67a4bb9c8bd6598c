"""What one table of counts saves in matching 500 clusters, and what the retrieval memory costs in memory.

python -m bench.matching [--pixels 1000000] [--clusters 500] [--pictures 400] [--queries 4]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from components.evaluate.matching import VOID, contingency, hungarian, iou_matrix, match

LABELS = 21
DIM, PATCH, SIDE = 384, 16, 448  # ViT-S/16 at the input of VOC's protocols


def made(pixels: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of Pascal VOC's kind (three quarters background, 5 % void) and clusters that follow them in part."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(pixels) < 0.75, 0, rng.integers(1, LABELS, pixels))
    clusters = np.where(rng.random(pixels) < 0.6, labels * (k // LABELS) + rng.integers(0, k // LABELS, pixels), 0)
    clusters = np.where(rng.random(pixels) < 0.3, rng.integers(0, k, pixels), clusters)
    return np.where(rng.random(pixels) < 0.05, VOID, labels), clusters


def literal_matrix(labels: np.ndarray, clusters: np.ndarray, k: int) -> np.ndarray:
    """IoU pair by pair over all pixels, as the released evaluations compute it."""
    kept = labels != VOID
    labels, clusters = labels[kept], clusters[kept]
    found = np.zeros((LABELS, k))
    for label in range(LABELS):
        for cluster in range(k):
            truth, seen = labels == label, clusters == cluster
            both, either = np.sum(truth & seen), np.sum(truth | seen)
            found[label, cluster] = both / max(either, 1)
    return found


def matching(pixels: int, k: int) -> None:
    labels, clusters = made(pixels, k)
    hungarian(np.eye(2, dtype=np.int64))  # loads scipy
    start = time.process_time()
    counts = contingency(labels, clusters, LABELS, k, VOID)
    counted = time.process_time()
    match(counts, "hungarian", "all")
    one_to_one = time.process_time()
    match(counts, "greedy", "all")
    many_to_one = time.process_time()
    square = np.random.default_rng(1).integers(0, 50, (k, k))
    hungarian(square)
    largest = time.process_time()
    expected = literal_matrix(labels, clusters, k)
    end = time.process_time()
    apart = float(np.abs(iou_matrix(counts) - expected).max())
    print(f"{pixels:,} pixels, {LABELS} labels, {k} clusters; processor time")
    print(f"one table of counts   {1e3 * (counted - start):10.1f} ms")
    print(f"Hungarian and mIoU    {1e3 * (one_to_one - counted):10.1f} ms")
    print(f"greedy and mIoU       {1e3 * (many_to_one - one_to_one):10.1f} ms")
    print(f"Hungarian, {k} x {k}  {1e3 * (largest - many_to_one):10.1f} ms")
    print(
        f"literal, pair by pair {1e3 * (end - largest):10.1f} ms: {(end - largest) / (one_to_one - start):,.0f} times"
    )
    print(f"largest difference of an IoU {apart:.1e}")


def child(folder: Path, pictures: int, queries: int) -> None:
    """Fill a memory by features that are drawn, ask it, and print the peak against the start."""
    import torch

    from components.common.progress import Progress
    from components.evaluate.augment import Augment
    from components.evaluate.features import FeatureBank, save
    from components.evaluate.hummingbird import Asking, Filling, answers, fill
    from components.evaluate.layouts.voc import Segmentation

    rng = np.random.default_rng(0)
    names = [str(i) for i in range(4)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (375, 500, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
        Image.fromarray(rng.integers(0, LABELS, (375, 500), dtype=np.uint8)).save(folder / f"{name}.png")
    data = Segmentation(names, [folder / f"{n}.jpg" for n in names], [folder / f"{n}.png" for n in names])
    generator, grid = torch.Generator().manual_seed(0), SIDE // PATCH

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(pixels), grid, grid, DIM, generator=generator)

    save(folder / "q.npy", rng.normal(size=(queries, grid, grid, DIM)).astype(np.float32))
    augment = Augment((0.5, 2.0), (3 / 4, 4 / 3), 0.1, 0.5)
    how = Filling(SIDE, PATCH, LABELS, None, pictures // len(names), augment, seed=0, batch=8, workers=2)
    forward(torch.zeros(8, 1))
    before = peak_bytes()
    with Progress(pictures, "pictures") as progress:
        memory = fill(folder / "memory", data, forward, DIM, how, "cpu", progress)
    filled = peak_bytes()
    answers(FeatureBank([folder / "q.npy"]), range(queries), memory, Asking(30, 0.02, "cpu", 0))
    size = memory.keys.nbytes + memory.labels.nbytes
    print(
        json.dumps({"size": size, "rows": len(memory.keys), "filled": filled - before, "asked": peak_bytes() - before})
    )


def peak_bytes() -> int:
    """Largest resident memory of this process so far, mapped pages of files among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def retrieval(pictures: int, queries: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.matching", "--child", folder, "--pictures", str(pictures)]
        done = subprocess.run([*command, "--queries", str(queries)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    mib = {key: found[key] / 2**20 for key in ("size", "filled", "asked")}
    print(f"memory of {found['rows']:,} patches, {DIM} features and {LABELS} labels each: {mib['size']:.0f} MiB")
    print(
        f"peak above the start: filled {mib['filled']:.0f} MiB, after {queries} pictures asked {mib['asked']:.0f} MiB,"
    )
    print(f"{mib['asked'] / mib['size']:.2f} times the memory")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pixels", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=400, help="pictures in the retrieval memory")
    parser.add_argument("--queries", type=int, default=4, help="pictures that ask it")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.pictures, args.queries)
        return
    matching(args.pixels, args.clusters)
    retrieval(args.pictures, args.queries)


if __name__ == "__main__":
    main()
