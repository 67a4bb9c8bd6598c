"""This machine's figures for the forecast: `python -m bench.rates --out mine.yaml`, then `--rates mine.yaml` there.

Processor time of one core, which a busy machine disturbs less than the clock: extraction, tables, fingerprints, the
loader, training on the CPU, hashing, imports. What depends on the data (bytes a pixel) or the network is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bench.extract import cpu_seconds
from bench.train import draw_corpus, film, params_of
from components.common.config import read_yaml
from components.common.ffmpeg import ffmpeg_exe
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.stage import main as run_stage
from components.extract_frames.__main__ import STAGE, run
from components.index.fingerprint import WORDS, fingerprint, near
from components.pretrain.data import ClipDataset
from components.pretrain.run import build_trainer, view_plan
from components.pretrain.sampler import EpochSampler
from components.pretrain.trainer import Report
from components.pretrain.views import view_shapes

HD = (1280, 720)
Found = dict[str, dict[str, float]]


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of this process and of the children that ended."""
    start = cpu_seconds()
    work()
    return cpu_seconds() - start


def extraction() -> dict[str, float]:
    """Start-up of a video, decoding and storing, told apart by what each run leaves out."""
    n_small, n_large, seconds, rate = 60, 2, 10.0, 30
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        render(small, n_small, "64x48", 10, 0.2)
        render(large, n_large, "x".join(map(str, HD)), rate, seconds)
        extract(small, {"mode": "fps", "fps": 10})  # warms Python's imports and the page cache
        start = spent(lambda: extract(small, {"mode": "fps", "fps": 10})) / n_small
        decode = spent(lambda: extract(large, {"mode": "every_s", "every_s": 100})) - n_large * start
        store = spent(lambda: extract(large, {"mode": "fps", "fps": rate})) - n_large * start - decode
    shown = n_large * seconds * rate
    per_frame = store / shown
    area, fixed = 455 * 256, 3.0e-4  # a frame's own share, which smaller frames show
    return {
        "video_core_s": start,
        "source_px_per_s": shown * HD[0] * HD[1] / decode,
        "frame_px_per_s": area / max(per_frame - fixed, per_frame / 4),
    }


def render(folder: Path, n: int, size: str, rate: int, seconds: float) -> None:
    """Copies of one H.264 clip with film grain."""
    folder.mkdir()
    picture = f"testsrc2=s={size}:r={rate}:d={seconds},noise=alls=12:allf=t"
    h264 = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", "3M", "-g", "60", "-pix_fmt", "yuv420p"]
    command = [ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", picture, *h264, str(folder / "0.mp4")]
    subprocess.run(command, check=True)
    for copy in range(1, n):
        (folder / f"{copy}.mp4").write_bytes((folder / "0.mp4").read_bytes())


def extract(videos: Path, params: dict[str, Any]) -> None:
    """The whole stage, from nothing."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        os.environ |= {"LONGTAKE_CACHE": f"{name}/cache", "LONGTAKE_TRACKING": "off"}
        given = {"short_side_px": 256, **params}
        where = ["--corpus", "bench", "--videos", str(videos), "--frames", f"{name}/frames"]
        if run_stage(STAGE, run, [*where, "--param", f"extract_frames.bench={json.dumps(given)}"]):
            raise SystemExit("bench.rates: extraction failed")


def assembling(n: int = 20_000) -> float:
    """Seconds a frame that the writer of a store takes, hashing left to the forecast's own figure."""
    jpeg = film(np.random.default_rng(0), 1, 64)[0].jpeg
    with tempfile.TemporaryDirectory() as name:

        def write() -> None:
            with FrameStoreWriter(Path(name, "store")) as store:
                store.add(VideoRow(key="v", path="v"), (Frame(jpeg, i / 30, i) for i in range(n)))

        return spent(write) / n


def prints() -> dict[str, float]:
    """Fingerprints at two sizes, and their comparison."""
    took = {}
    for side in (128, 256):
        jpegs = [frame.jpeg for frame in film(np.random.default_rng(0), 64, side)]
        took[side] = spent(lambda jpegs=jpegs: [fingerprint(jpeg) for jpeg in jpegs * 4]) / (4 * len(jpegs))  # type: ignore[misc]
    per_px = (took[256] - took[128]) / (256**2 - 128**2)
    rng = np.random.default_rng(0)
    queries, base = (rng.integers(0, 2**64, (n, WORDS), dtype=np.uint64) for n in (1_000, 200_000))
    pairs = len(queries) * len(base) / spent(lambda: near(queries, base, 36))
    fixed = max(took[128] - per_px * 128**2, 0.0)
    return {"fingerprint_core_s": fixed, "fingerprint_px_per_s": 1 / per_px, "pairs_per_s": pairs}


def training(steps: int = 6) -> tuple[dict[str, float], dict[str, float]]:
    """The loader's three figures by least squares over all plans, and operations a second of the sample's methods."""
    plans, flops, pixels = [], [], 0.0
    for file, side in (
        ("params.yaml", 128),
        *((f"recipes/published/{m}.yaml", 256) for m in ("dino", "dora", "next_frame")),
    ):
        document = read_yaml(Path(file))
        for key in (name for name in document["pretrain"] if name not in ("shared", "random")):
            given = argparse.Namespace(steps=steps, batch=8, workers=0, params=file)
            params = params_of(document, key, given, {})
            with tempfile.TemporaryDirectory() as name:
                frames, index = draw_corpus(Path(name), params, side=side)
                plan = view_plan(params)
                row = loading(ClipDataset(frames, index, plan, 0), steps)
                plans.append((plan, side, row))
                if file == "params.yaml":
                    flops.append(arithmetic(params, frames, index, row))
    shapes = [view_shapes(plan).values() for plan, _, _ in plans]
    known = np.array([row - plan.n_frames * side**2 / 2.8e8 for plan, side, row in plans])  # decoding: bench.views
    table = np.array(
        [
            [sum(v * f * s * s for v, f, s, *_ in shape), sum(v * f for v, f, *_ in shape), plan.n_frames]
            for shape, (plan, _, _) in zip(shapes, plans, strict=True)
        ]
    )
    pixels, views, frame = np.linalg.lstsq(table / known[:, None], np.ones(len(known)))[0]  # relative errors
    loader = {"view_px_per_s": 1 / pixels, "view_core_s": max(views, 0.0), "frame_core_s": max(frame, 0.0)}
    return loader, {"cpu_flops": float(np.median(flops))}


def loading(dataset: ClipDataset, batches: int) -> float:
    """Seconds a sample from bytes to views."""
    keys = iter(EpochSampler(len(dataset), 8, 0, steps=batches + 1))
    dataset.batch(next(keys))
    mine = list(keys)
    return spent(lambda: [dataset.batch(key) for key in mine]) / (8 * len(mine))


def arithmetic(params: Any, frames: Path, index: Path, sample_s: float) -> float:
    """Operations a second and core of training, loading taken off."""
    marks: list[tuple[float, Report]] = []
    build_trainer(params, frames, index, torch.device("cpu")).train(
        lambda report: marks.append((cpu_seconds(), report))
    )
    (start, _), (end, last) = marks[-2:]
    samples = last.steps * params.trainer.batch_size
    return last.flops_per_sample * samples / (end - start - samples * sample_s)


def imports(module: str) -> float:
    """Processor seconds of a Python that imports a stage's work."""
    return spent(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))


def hashing() -> float:
    """Bytes a second of MD5, the slower of the two hashes a store goes through."""
    data = bytes(1 << 28)
    return len(data) / spent(lambda: hashlib.md5(data, usedforsecurity=False).hexdigest())


def measured() -> Found:
    """All figures, in the layout of forecast.yaml."""
    loader, train = training()
    return {
        "machine": {
            "start_data_s": imports("components.index.build"),
            "start_train_s": imports("components.pretrain.run"),
            "hash_bytes_per_s": hashing(),
        },
        "extract": {**extraction(), "assemble_frame_s": assembling()},
        "index": prints(),
        "loader": loader,
        "train": train,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures there, for `pipelines.forecast --rates`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        section: {
            name: {"value": float(f"{value:.3g}"), "how": "measured", "source": "python -m bench.rates"}
            for name, value in values.items()
        }
        for section, values in measured().items()
    }
    for section, values in figures.items():
        for name, figure in values.items():
            print(f"{section}.{name:24}{figure['value']:14.4g}")
    if args.out:
        args.out.write_text(yaml.safe_dump(figures, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
