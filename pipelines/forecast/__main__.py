"""What a run will take, before it is started: time, storage, memory, GPU-hours, and what will not fit.

python -m pipelines.forecast                                             # the sample run on this machine
python -m pipelines.forecast --recipe own_videos --videos 500 --video-s 10 --gpus 2 --cpus 32
python -m pipelines.forecast --recipe published/dino --videos 1 --video-s 6600 --device h100
python -m pipelines.forecast --scale                                     # the tables of docs/scale.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.errors import ExitCode, StageError

if TYPE_CHECKING:
    from pipelines.forecast.corpus import Given
    from pipelines.forecast.schedule import Slots


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m pipelines.forecast", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--recipe", help="a file of recipes/ (by name) or any other")
    made.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
    made.add_argument("--videos", type=int, metavar="N", help="videos of every raw dataset, instead of what is there")
    made.add_argument("--video-s", type=float, metavar="S", help="length of each in seconds (with --videos)")
    made.add_argument("--gpus", type=int, metavar="G", help="on a cluster with so many; without it, on this machine")
    made.add_argument("--cpus", type=float, metavar="C", help="cores (default: this machine's; 16 for each of --gpus)")
    made.add_argument("--device", help="a device of forecast.yaml (default with --gpus: h200; without: none)")
    made.add_argument("--cluster", type=Path, help="settings of the cluster, over pipelines/cluster.yaml")
    made.add_argument("--rates", type=Path, help="figures of another machine, over pipelines/forecast.yaml")
    made.add_argument("--assume", action="append", default=[], metavar="a.b=c", help="change one figure")
    made.add_argument("--json", action="store_true", help="everything, in seconds and bytes")
    made.add_argument("--scale", action="store_true", help="print the tables of docs/scale.md and end")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        print(_told(args))
    except StageError as error:
        print(f"forecast: {error}", file=sys.stderr)
        return int(error.code)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.OK)


def _told(args: argparse.Namespace) -> str:
    from components.common.stage import parse_change
    from pipelines.forecast import scale, show
    from pipelines.forecast.limits import limits
    from pipelines.forecast.plan import forecast
    from pipelines.forecast.rates import read_rates
    from pipelines.forecast.schedule import schedule, tasks_of
    from pipelines.workspace import merged_params, recipe_file

    rates = read_rates([parse_change(text, option="--assume") for text in args.assume], args.rates)
    if args.scale:
        return scale.page(rates)
    recipe = recipe_file(args.recipe) if args.recipe else None
    params = merged_params(recipe, [parse_change(text) for text in args.set])
    slots = _slots(args, list(rates.devices))
    run = forecast(params, rates, _given(args))
    tasks = tasks_of(run, slots)
    placed = schedule(tasks, slots)
    told = show.document(run, placed, slots, limits(run, tasks, slots))
    return json.dumps(told, indent=1) if args.json else show.text(told, recipe.stem if recipe else "sample")


def _given(args: argparse.Namespace) -> Given | None:
    from pipelines.forecast.corpus import Given

    if (args.videos is None) != (args.video_s is None):
        raise StageError("--videos and --video-s go together", do="say how many videos and how long each is")
    if args.videos is None:
        return None
    if args.videos < 1 or not 0 < args.video_s < float("inf"):
        raise StageError(f"{args.videos} videos of {args.video_s:g} s are none", do="give positive numbers")
    return Given(args.videos, args.video_s)


def _slots(args: argparse.Namespace, devices: list[str]) -> Slots:
    from components.common.config import nearest
    from pipelines.cluster import Cluster
    from pipelines.forecast.schedule import Slots

    device = args.device or ("h200" if args.gpus else None)
    if device is not None and device not in devices:
        raise StageError(f"no device '{device}' in forecast.yaml{nearest(device, devices)}")
    if (args.gpus or 0) < 0 or (args.cpus is not None and not 0 < args.cpus < float("inf")):
        raise StageError("--gpus and --cpus must be positive")
    here = args.cpus or float(len(os.sched_getaffinity(0)))
    if args.gpus is None:
        return Slots(here, 1 if device else 0, device, cluster=False, fan_out_pods=1)
    pods = Cluster.read(args.cluster).fan_out_pods
    return Slots(args.cpus or max(16.0 * args.gpus, here), args.gpus, device, cluster=True, fan_out_pods=pods)


if __name__ == "__main__":
    raise SystemExit(main())
