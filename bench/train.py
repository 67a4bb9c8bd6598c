"""How fast the methods train on this machine: images/s, share of waiting for data, memory, arithmetic.

python -m bench.train                                      # the sample profile of params.yaml, on drawn frames
python -m bench.train --params recipes/published/dino.yaml --methods dino --batch 256 --variants eager compiled
python -m bench.train --frames data/frames/sample --index data/index/sample
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch

from components.common.clip_index import write_index
from components.common.config import deep_merge, parse, read_yaml, section_of
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.progress import memory_gib
from components.pretrain.config import PretrainParams, params_model
from components.pretrain.run import build_trainer, view_plan
from components.pretrain.trainer import Report

FPS = 4.0
VARIANTS: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"compile": True}, "float32": {"precision": "float32"}}


class Speed(NamedTuple):
    """One line of the table; images are source frames, over all views of each."""

    img_per_s: float
    data_wait: float
    host_gib: float
    gpu_gib: float
    gflop_per_sample: float
    tflop_per_s: float


def main() -> None:
    """Train each method for some steps and print a line each; the first window (start-up, compilation) is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--methods", nargs="+", help="default: all of the parameter file but `random`")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"])
    parser.add_argument("--steps", type=int, default=20, help="measured steps, after as many that are not")
    parser.add_argument("--batch", type=int, help="samples a step, instead of the parameter file's")
    parser.add_argument("--workers", type=int, help="loader processes, instead of the parameter file's")
    parser.add_argument("--frames", type=Path, help="frame store; default: drawn frames of 256 x 256 pixels")
    parser.add_argument("--index", type=Path, help="clip index over --frames")
    args = parser.parse_args()
    document = read_yaml(args.params)
    methods = args.methods or [name for name in document["pretrain"] if name not in ("shared", "random")]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    heads = ("host GiB", "GPU GiB", "GFLOP", "TFLOP/s")
    print(f"{'method':12} {'variant':9} {'img/s':>9} {'wait':>5}", *(f"{head:>9}" for head in heads))
    for method in methods:
        for variant in args.variants:
            params = params_of(document, method, args, VARIANTS[variant])
            with tempfile.TemporaryDirectory() as folder:
                frames, index = (args.frames, args.index) if args.frames else draw_corpus(Path(folder), params)
                found = measure(params, frames, index, device, args.steps)
            print(f"{method:12} {variant:9} {found.img_per_s:9.1f} {found.data_wait:5.0%}", *columns(found))


def columns(found: Speed) -> list[str]:
    return [f"{value:9.{3 if value < 1 else 2}f}" for value in found[2:]]


def params_of(document: dict[str, Any], method: str, args: argparse.Namespace, variant: dict[str, Any]) -> Any:
    """The method's section with a run of twice `--steps`, reported in two windows."""
    section = section_of(document, "pretrain", method)
    trainer: dict[str, Any] = {"max_steps": 2 * args.steps, "log_every_steps": args.steps, "epochs": 1e6}
    trainer |= {"warmup_epochs": 0, "processes": 1, **variant}
    trainer |= {"batch_size": args.batch} if args.batch else {}
    trainer |= {"workers": args.workers} if args.workers is not None else {}
    section = deep_merge(section, {"trainer": trainer})
    return parse(params_model(method, section), section, str(args.params))


def measure(params: PretrainParams, frames: Path, index: Path, device: torch.device, steps: int) -> Speed:
    """Train for two windows and take the second."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    reports: list[Report] = []
    memory: list[float] = []

    def tell(report: Report) -> None:
        reports.append(report)
        memory.append(memory_gib())

    build_trainer(params, frames, index, device).train(tell)
    last = reports[-1]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    flops = last.flops_per_sample * params.trainer.batch_size * steps / last.seconds
    speed = last.images / last.seconds
    return Speed(speed, last.data_wait, max(memory), peak, last.flops_per_sample / 1e9, flops / 1e12)


def draw_corpus(folder: Path, params: PretrainParams, side: int = 256, frames: int = 64) -> tuple[Path, Path]:
    """Frames of noise and discs, as heavy to decode as real ones, and the draw that the method asks for."""
    plan = view_plan(params)
    videos = -(-2 * params.trainer.batch_size // (frames - plan.n_frames + 1))
    with FrameStoreWriter(folder / "frames") as writer:
        for video in range(videos):
            rng = np.random.default_rng(video)
            writer.add(VideoRow(key=f"v{video}", path=f"v{video}.mp4", fps=FPS), film(rng, frames, side))
    table = FrameStore(folder / "frames").frames
    columns = {
        name: table[name].to_numpy() for name in ("video", "pts_s", "shard", "offset", "size", "height", "width")
    }
    columns |= {"segment": columns["video"], "split": np.zeros(len(table), np.int8)}
    first = np.arange(videos * frames).reshape(videos, frames)[:, : frames - plan.n_frames + 1]
    write_index(folder / "index", columns, {plan.draw: first.reshape(-1, 1) + np.arange(plan.n_frames)})
    return folder / "frames", folder / "index"


def film(rng: np.random.Generator, frames: int, side: int) -> Sequence[Frame]:
    """A disc moving over smoothed noise."""
    ground = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), (0, 0), 1.5)
    start, step = rng.uniform(0, side, 2), rng.uniform(-4, 4, 2)
    made = []
    for i in range(frames):
        image = ground.copy()
        cv2.circle(image, tuple((start + i * step).astype(int).tolist()), side // 6, (200, 80, 40), thickness=-1)
        made.append(Frame(simplejpeg.encode_jpeg(image, quality=90), i / FPS, i))
    return made


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    main()
