"""How fast the methods train on this machine: images/s, share of waiting for data, memory, arithmetic.

python -m bench.train                                      # the sample profile of params.yaml, on drawn frames
python -m bench.train --params recipes/published/*.yaml --batch 128 --variants eager compiled       # on a GPU
python -m bench.train --frames data/frames/sample --index data/index/sample
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch

from components.common.clip_index import write_index
from components.common.config import deep_merge, parse, read_yaml, section_of
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, TrackBox, VideoRow
from components.common.progress import memory_gib
from components.index.objects import read_objects
from components.pretrain.config import PretrainParams, params_model
from components.pretrain.run import build_trainer, view_plan
from components.pretrain.trainer import Report

FPS = 4.0
FRAMES, SPAN = 64, 32  # of a drawn video, of a drawn span
# bfloat16 where the device has it, also for recipes that were published with float32
VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {"compile": False, "precision": "auto"},
    "compiled": {"compile": True, "precision": "auto"},
    "float32": {"compile": False, "precision": "float32"},
}
PEAKS = Path(__file__).parents[1] / "pipelines" / "forecast.yaml"  # dense bfloat16, from data sheets


class Speed(NamedTuple):
    """One line of the table; images are source frames, over all views of each."""

    img_per_s: float
    data_wait: float
    host_gib: float
    gpu_gib: float
    gflop_per_sample: float
    tflop_per_s: float

    def line(self, peak: float | None) -> str:
        """As printed; `peak` in TFLOP/s makes a share of it, the model FLOPs utilisation."""
        numbers = "".join(f" {value:9.{3 if value < 1 else 2}f}" for value in self[2:])
        share = f"{self.tflop_per_s / peak:7.1%}" if peak else f"{'-':>7}"
        return f"{self.img_per_s:9.1f} {self.data_wait:5.0%}{numbers} {share}"


def main() -> None:
    """Train each method for some steps and print a line each; the first window (start-up, compilation) is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, nargs="+", default=[Path("params.yaml")], help="parameter files")
    parser.add_argument("--methods", nargs="+", help="default: all of the parameter files but `random`")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"])
    parser.add_argument("--steps", type=int, default=20, help="measured steps, after as many that are not")
    parser.add_argument("--batch", type=int, help="samples a step, instead of the parameter file's")
    parser.add_argument("--workers", type=int, help="loader processes, instead of the parameter file's")
    parser.add_argument("--frames", type=Path, help="frame store; default: drawn frames of 256 x 256 pixels")
    parser.add_argument("--index", type=Path, help="clip index over --frames")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device; default: by its name, where it is known")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = args.peak or peak_of(device)
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    heads = ("host GiB", "GPU GiB", "GFLOP", "TFLOP/s")
    print(f"{'method':16} {'variant':9} {'img/s':>9} {'wait':>5}", *(f"{head:>9}" for head in heads), f"{'MFU':>7}")
    for document, method in selected(args):
        for variant in args.variants:
            params = params_of(document, method, args, VARIANTS[variant])
            with tempfile.TemporaryDirectory() as folder:
                frames, index = (args.frames, args.index) if args.frames else draw_corpus(Path(folder), params)
                found = measure(params, frames, index, device, args.steps)
            print(f"{method:16} {variant:9} {found.line(peak)}", flush=True)


def selected(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    """The parameter files and the methods in each; a file without a section for methods is passed over."""
    for file in args.params:
        document = read_yaml(file)
        for method in document.get("pretrain", {}):
            if method not in ("shared", "random") and method in (args.methods or [method]):
                yield document, method


def peak_of(device: torch.device) -> float | None:
    """TFLOP/s of dense bfloat16 products that a data sheet gives, for devices that the forecast knows."""
    if device.type != "cuda":
        return None
    devices = read_yaml(PEAKS)["devices"]
    known = [entry["peak_flops"]["value"] for name, entry in devices.items() if name in device_name(device).lower()]
    return known[0] / 1e12 if known else None


def params_of(document: dict[str, Any], method: str, args: argparse.Namespace, variant: dict[str, Any]) -> Any:
    """The method's section with a run of twice `--steps`, reported in two windows."""
    section = section_of(document, "pretrain", method)
    trainer: dict[str, Any] = {
        "max_steps": 2 * args.steps,
        "log_every_steps": args.steps,
        "epochs": 1e6,
        "budget": None,
    }
    trainer |= {"warmup_epochs": 0, "processes": 1, **variant}
    trainer |= {"batch_size": args.batch} if args.batch else {}
    trainer |= {"workers": args.workers} if args.workers is not None else {}
    section = deep_merge(section, {"trainer": trainer})
    return parse(params_model(method, section), section, f"pretrain.{method}")


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


def draw_corpus(folder: Path, params: PretrainParams, side: int = 256) -> tuple[Path, Path]:
    """Frames of noise with a disc, as heavy to decode as real ones, and the draw that the method asks for."""
    plan = view_plan(params)
    length = SPAN if plan.timing is not None else plan.n_frames
    videos = -(-2 * params.trainer.batch_size // (FRAMES - length + 1))
    with FrameStoreWriter(folder / "frames", objects=True) as writer:
        for video in range(videos):
            rng = np.random.default_rng(video)
            writer.add(VideoRow(key=f"v{video}", path=f"v{video}.mp4", fps=FPS), film(rng, FRAMES, side))
    store = FrameStore(folder / "frames")
    table = {name: store.frames[name].to_numpy() for name in store.frames.column_names}
    columns = {name: table[name] for name in ("video", "pts_s", "shard", "offset", "size", "height", "width")}
    columns |= {"segment": columns["video"], "split": np.zeros(store.n_frames, np.int8)}
    first = np.arange(store.n_frames).reshape(videos, FRAMES)[:, : FRAMES - length + 1].reshape(-1, 1)
    rows = first + ([0, length - 1] if plan.timing is not None else np.arange(length))
    objects = read_objects(store, {name: table[name] for name in ("video", "frame")})
    listed = None if objects is None else (objects.columns, objects.categories)
    write_index(folder / "index", columns, {plan.draw: rows}, {plan.draw: {"span": "video"}}, objects=listed)
    return folder / "frames", folder / "index"


def film(rng: np.random.Generator, frames: int, side: int) -> Sequence[Frame]:
    """A disc moving over smoothed noise; it is the one object."""
    ground = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), (0, 0), 1.5)
    radius = side // 6
    start, step = rng.uniform(radius, side - radius, 2), rng.uniform(-1, 1, 2)
    made = []
    for i in range(frames):
        image, (x, y) = ground.copy(), np.clip(start + i * step, radius, side - radius).astype(int).tolist()
        cv2.circle(image, (x, y), radius, (200, 80, 40), thickness=-1)
        box = TrackBox(0, "disc", x - radius, y - radius, x + radius, y + radius)
        made.append(Frame(simplejpeg.encode_jpeg(image, quality=90), i / FPS, i, objects=(box,)))
    return made


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    main()
