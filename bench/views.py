"""Frames a second and core of the loader against the reference recipe: `python -m bench.views [--videos DIR]`.

Both make DINO's 2 x 224 + 8 x 96 pixel views of the same frames of the same store, in turns, on one thread, from bytes
on disk to a batch. The reference is what DINO's `main_dino.py` (arXiv:2104.14294) does: PIL decodes, torchvision's
transforms work on PIL images, PIL blurs, ToTensor and Normalize end it. Ours leaves normalising to the device; its
cost on this CPU is a line of its own. Figures are of processor time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms as tv

from components.common.clip_index import FrameRow, write_index
from components.common.ffmpeg import ffmpeg_exe
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.jpeg import split_jpegs
from components.pretrain.data import Batch, ClipDataset, decode, to_device
from components.pretrain.plan import Crop, Photometric, ViewPlan
from components.pretrain.sampler import EpochSampler, Key
from components.pretrain.views import make_views

FLOOR = 8.0
VIDEOS = Path(__file__).parents[1] / "../shared/data/videos"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GLOBAL, LOCAL = (0.4, 1.0), (0.05, 0.4)
PLAN = ViewPlan(
    "frame",
    1,
    (
        Crop("global", 224, GLOBAL, (Photometric(blur_p=1.0), Photometric(blur_p=0.1, solarise_p=0.2))),
        Crop("local", 96, LOCAL, (Photometric(),) * 8),
    ),
)


def build_store(folder: Path, videos: Path | None) -> tuple[Path, Path]:
    """A store as extract_frames makes it (short side 256, JPEG quality 2, 5 frames a second), and its index."""
    drawn = ["-f", "lavfi", "-t", "8", "-i", "mandelbrot=s=640x360:r=25,noise=alls=8:allf=t"]
    films = sorted(videos.glob("*.mp4")) if videos else []
    inputs = {film.stem: ["-i", str(film)] for film in films} or {"drawn": drawn}
    jpegs = ["-vf", "fps=5,scale=-2:256", "-frames:v", "40", "-q:v", "2", "-c:v", "mjpeg", "-f", "image2pipe", "-"]
    with FrameStoreWriter(folder / "frames") as store:
        for key, source in inputs.items():
            command = [ffmpeg_exe(), "-v", "error", "-threads", "1", *source, *jpegs]
            stream = io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)
            store.add(VideoRow(key, key), [Frame(jpeg, i / 5, i) for i, jpeg in enumerate(split_jpegs(stream))])
    table = FrameStore(folder / "frames").frames
    names = ("video", "pts_s", "shard", "offset", "size", "height", "width")
    columns = {name: table[name].to_numpy() for name in names}
    columns |= {"segment": columns["video"], "split": np.zeros(table.num_rows, np.int8)}
    write_index(folder / "index", columns, {"frame": np.arange(table.num_rows)[:, None]})
    return folder / "frames", folder / "index"


class Blur:
    """PIL's Gaussian blur with probability `p`, radius uniform in 0.1 to 2."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        blurred = random.random() < self.p
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))) if blurred else image


class Reference:
    """The views of main_dino.py."""

    def __init__(self, store: FrameStore) -> None:
        self.store = store
        solarise = tv.RandomApply([tv.Lambda(ImageOps.solarize)], p=0.2)
        first, second = self._recipe(224, GLOBAL, Blur(1.0)), self._recipe(224, GLOBAL, Blur(0.1), solarise)
        self.views = [first, second, *[self._recipe(96, LOCAL, Blur(0.5))] * 8]

    def batch(self, rows: list[FrameRow]) -> list[Tensor]:
        """Per view a float batch (B, 3, S, S)."""
        return list(default_collate([self._sample(row) for row in rows]))

    def _sample(self, row: FrameRow) -> list[Tensor]:
        image = Image.open(io.BytesIO(self.store.read(row.shard, row.offset, row.size))).convert("RGB")
        return [view(image) for view in self.views]

    def _recipe(self, size: int, scale: tuple[float, float], *end: Callable[[Image.Image], Image.Image]) -> tv.Compose:
        crop = tv.RandomResizedCrop(size, scale=scale, interpolation=tv.InterpolationMode.BICUBIC)
        jitter = tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        normalise = [tv.ToTensor(), tv.Normalize(MEAN, STD)]
        return tv.Compose([crop, tv.RandomHorizontalFlip(), jitter, tv.RandomGrayscale(0.2), *end, *normalise])


def rate(frames: int, work: Callable[[], object]) -> float:
    """Frames per second of processor time."""
    start = time.process_time()
    work()
    return frames / (time.process_time() - start)


def measure(dataset: ClipDataset, reference: Reference, keys: Iterator[list[Key]]) -> dict[str, float]:
    """One round; every figure in frames a second, each over frames of its own."""
    index, store, found = dataset.index, dataset.store, {}
    rows = index.rows([key.sample for key in next(keys)])
    data = [store.read(row.shard, row.offset, row.size) for row in rows]
    images = [decode(jpeg, row.height, row.width) for jpeg, row in zip(data, rows, strict=True)]
    n, rng = len(rows), np.random.default_rng(0)
    found["read"] = rate(n, lambda: [store.read(r.shard, r.offset, r.size) for r in index.rows([r.row for r in rows])])
    found["decode"] = rate(n, lambda: [decode(j, r.height, r.width) for j, r in zip(data, rows, strict=True)])
    found["views"] = rate(n, lambda: [make_views([image], PLAN, rng) for image in images])
    mine, batches = next(keys), list[Batch]()
    found["store to batch"] = rate(n, lambda: batches.append(dataset.batch(mine)))
    found["normalise on this CPU"] = rate(n, lambda: to_device(batches[0], torch.device("cpu"), MEAN, STD))
    theirs = index.rows([key.sample for key in next(keys)])
    found["reference"] = rate(n, lambda: reference.batch(theirs))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = VIDEOS if VIDEOS.is_dir() else None
    parser.add_argument("--videos", type=Path, default=default, help="a folder of mp4 files; without one, one is drawn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32, help="frames a figure and round")
    parser.add_argument("--check", action="store_true", help=f"fail below {FLOOR}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = ClipDataset(*build_store(Path(folder), args.videos), PLAN, seed=0)
        keys = iter(EpochSampler(len(dataset), args.batch, 0, steps=3 * (args.rounds + 1)))
        reference = Reference(dataset.store)
        measure(dataset, reference, keys)  # warms the page cache and the allocator
        rounds = [measure(dataset, reference, keys) for _ in range(args.rounds)]
    print(f"{len(dataset)} frames, {args.rounds} rounds of {args.batch}; median frames a second and core")
    for name in rounds[0]:
        print(f"  {name:24s}{statistics.median(found[name] for found in rounds):9.0f}")
    ratios = sorted(found["store to batch"] / found["reference"] for found in rounds)
    print("ratios of the rounds: " + " ".join(f"{ratio:.2f}" for ratio in ratios))
    ratio = statistics.median(ratios)
    print(f"store to batch: {ratio:.2f} times the reference (at least {FLOOR:.0f} is wanted)")
    return int(args.check and ratio < FLOOR)


if __name__ == "__main__":
    raise SystemExit(main())
