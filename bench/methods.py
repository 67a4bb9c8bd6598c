"""A step of each method against the flow of its released code: time, memory, and the loss, which must be the same.

OMP_NUM_THREADS=2 python -m bench.methods                         # ViT-S/16 at the published recipes, in float32
python -m bench.methods --methods dino --batch 16 --compile       # blocks compiled, as trainer.compile does
python -m bench.methods --profile params.yaml --methods dino      # the sample run's small encoder

Two processes, one for each flow, take turns on the same device: a step of one, a step of the other. Both have the same
start weights, batch and arguments; ours goes through the trainer as a run does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.common.config import deep_merge, parse, read_yaml, section_of
from components.pretrain import speed
from components.pretrain.budget import Cost
from components.pretrain.config import PretrainParams, params_model
from components.pretrain.method import Now
from components.pretrain.run import build_method, view_plan
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Trainer, seeded

METHODS = ("dino", "ibot", "dora", "timet", "tcore")
EPOCHS = 1000.0
WARM_UP = 2  # steps that allocate, compile, and start the optimiser
AGREE = 1e-4  # relative difference of the two losses at the first step, in float32
HIDDEN_SHARE, HIDDEN_VIEWS = 0.3, 2  # of the patches in every second view


def main() -> None:
    args = parser().parse_args()
    if args.flow:
        work(args)
        return
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, batch {args.batch}, float32, medians of {args.rounds} rounds")
    print("seconds of processor time; ratio of rounds by it, and by wall time; our peak memory beside the naive flow's")
    print(f"{'method':8} {'naive':>9} {'ours':>9} {'ratio':>6} {'':13} {'wall':>6} {'memory':>7} {'loss differs':>13}")
    for method in args.methods:
        print(row(method, compare(method, args)), flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--methods", nargs="+", default=METHODS)
    made.add_argument("--profile", type=Path, help="parameter file; default: recipes/published/<method>.yaml")
    made.add_argument("--batch", type=int, default=4, help="samples a step")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--out-dim", type=int, help="prototypes, instead of the recipe's")
    made.add_argument("--compile", action="store_true")
    made.add_argument("--flow", choices=("ours", "naive"), help=argparse.SUPPRESS)
    return made


def compare(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate steps of both flows and return what each said."""
    command = [sys.executable, "-m", "bench.methods", *forwarded(args), "--methods", method, "--flow"]
    flows = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("naive", "ours")
    }
    said: dict[str, list[dict[str, float]]] = {name: [] for name in flows}
    for _ in range(args.rounds + WARM_UP):
        for name, process in flows.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            said[name].append(json.loads(process.stdout.readline()))
    for name, process in flows.items():
        rest, _ = process.communicate()
        said[name][0] |= json.loads(rest) if rest else {}
    return said


def row(method: str, said: dict[str, list[dict[str, float]]]) -> str:
    """Medians, and the ratio of the rounds: by wall time, and by processor time, which other work disturbs less."""
    naive, ours = (said[name][WARM_UP:] for name in ("naive", "ours"))
    wall, cpu = (sorted(a[key] / b[key] for a, b in zip(naive, ours, strict=True)) for key in ("seconds", "cpu"))
    seconds = [statistics.median(step["cpu"] for step in steps) for steps in (naive, ours)]
    memory = ours[-1]["mib"] / naive[-1]["mib"]
    first, second = said["naive"][0]["loss"], said["ours"][0]["loss"]
    differs = abs(first - second) / abs(first)
    verdict = "" if differs < AGREE else "  THE LOSSES DIFFER"
    return (
        f"{method:8} {seconds[0]:9.2f} {seconds[1]:9.2f} {statistics.median(cpu):6.2f} {cpu[0]:5.2f} to {cpu[-1]:4.2f}"
        f" {statistics.median(wall):6.2f} {memory:7.0%} {differs:13.1e}{verdict}"
    )


def forwarded(args: argparse.Namespace) -> list[str]:
    given = ["--batch", str(args.batch), "--rounds", str(args.rounds)]
    given += ["--profile", str(args.profile)] if args.profile else []
    given += ["--out-dim", str(args.out_dim)] if args.out_dim else []
    return [*given, *(["--compile"] if args.compile else [])]


def work(args: argparse.Namespace) -> None:
    """One flow's process: a step and a line of figures for every line it reads; ours ends with its first loss."""
    params = params_of(args.methods[0], args)
    method, batch = build_method(params, epochs=EPOCHS), draw_batch(params)
    if args.flow == "naive":
        trainer = params.trainer
        flow = importlib.import_module(f"bench.naive.{params.method}").Naive(
            method, trainer.lr, trainer.weight_decay, trainer.clip_norm
        )
        turns = Turns(batch)
        for step, given in enumerate(turns.batches(0, 0)):
            turns.loss = flow.step(given, at(step, params))
        return
    speed.set_up(torch.device("cpu"), deterministic=False)
    Trainer(method, params, Schedule.plan(params.trainer, 1), Turns(batch), Cost()).train()
    fresh, now = build_method(params, epochs=EPOCHS), at(0, params)
    with torch.no_grad():
        print(json.dumps({"loss": fresh(fresh.before_step([batch], now)[0], now).loss.item()}))


class Turns:
    """A feed of one batch, a step for each line that is read; says what the step took when the next one is wanted."""

    steps_per_epoch = 1

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch, self.loss, self.before = batch, float("nan"), peak_mib()

    def batches(self, first_step: int, end: int) -> Iterator[dict[str, Tensor]]:
        for _ in sys.stdin:
            began, used = time.perf_counter(), time.process_time()
            yield self.batch
            took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}
            print(json.dumps(took | {"loss": self.loss, "mib": peak_mib() - self.before}), flush=True)


def at(step: int, params: PretrainParams) -> Now:
    """The step's values, drawn from as our trainer's."""
    generator = torch.Generator().manual_seed(seeded(params.seed, step))
    return Now(step, epoch=step, epochs=EPOCHS, momentum=params.trainer.momentum_teacher, generator=generator)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def params_of(method: str, args: argparse.Namespace) -> Any:
    """The recipe's section, in float32, without stochastic depth, whose draws the two flows would take differently."""
    file = args.profile or Path("recipes/published") / f"{method}.yaml"
    section = section_of(read_yaml(file), "pretrain", method)
    trainer = {
        "batch_size": args.batch,
        "precision": "float32",
        "compile": args.compile,
        "epochs": EPOCHS,
        "workers": 0,
    }
    trainer |= {"log_every_steps": 10**9}  # what a report costs is not the step's
    trainer |= {"max_steps": None, "budget": None, "accumulate": 1, "processes": 1, "warmup_epochs": 0}
    values: dict[str, Any] = {} if method == "timet" else {"drop_path": 0.0}
    values |= {"out_dim": args.out_dim} if args.out_dim else {}
    values |= {"koleo_group": min(section["args"]["koleo_group"], args.batch)} if method == "tcore" else {}
    section = deep_merge(section, {"trainer": trainer, "args": values, "encoder": {"start_from": None}})
    return parse(params_model(method, section), section, str(file))


def draw_batch(params: PretrainParams) -> dict[str, Tensor]:
    """Noise in the shapes that the method's plan asks for; every second view has patches hidden."""
    generator = torch.Generator().manual_seed(0)
    batch, plan = {}, view_plan(params)
    size = params.trainer.batch_size
    for crop in plan.crops:
        lead = (size, len(crop.photometric), len(crop.frames))
        batch[crop.name] = torch.randn(*lead, 3, crop.size_px, crop.size_px, generator=generator)
        whole = torch.tensor([0.0, 0.0, crop.size_px, crop.size_px, 0.0])
        batch[f"{crop.name}_box"] = whole.expand(*lead, 5).clone()
        if crop.mask is not None:
            side = plan.grid(crop)
            hidden = torch.rand(*lead, side, side, generator=generator) < HIDDEN_SHARE
            hidden[::HIDDEN_VIEWS] = False
            batch[f"{crop.name}_mask"] = hidden
    return batch


if __name__ == "__main__":
    main()
