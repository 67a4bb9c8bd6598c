"""Forecast and measurement side by side: every node of a recipe is run, one after the other, and timed.

python -m bench.forecast                                  # the sample run
python -m bench.forecast --recipe real_clips --rates mine.yaml

Compared are seconds of one core (processor time, which other work on the machine disturbs less than the clock) and the
bytes that a node leaves. Nothing is tracked; the folder is a temporary one unless it is named, then it is gone on with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from components.common.outputs import write_text
from components.common.stage import parse_change
from pipelines.dag import Node, read_dag
from pipelines.forecast.plan import Run, forecast
from pipelines.forecast.rates import read_rates
from pipelines.workspace import make_workspace, merged_params, recipe_file

FACTOR = 2.0


@dataclass(frozen=True)
class Measured:
    """What one node took: seconds of processor time and on the clock, bytes of its outputs."""

    core_s: float
    wall_s: float
    bytes: int


def run_node(node: Node, folder: Path) -> Measured:
    """Run a node's command in the workspace; ends the program where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "LONGTAKE_TRACKING": "off"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(shlex.split(node.cmd), cwd=folder, env=env, capture_output=True, text=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{node.name} failed: {done.stderr.strip().splitlines()[-1:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(used, wall, sum(weigh(folder / out) for out in node.outs))


def weigh(path: Path) -> int:
    """Bytes of a file or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def told(run: Run, name: str) -> tuple[float, float]:
    """(core-seconds, bytes) that the forecast says."""
    work = run.work[name]
    return work.start_s + work.core_s + work.serial_s + work.flops / run.rates.train.cpu_flops, work.out_bytes


def compare(run: Run, folder: Path) -> list[float]:
    """Run what has not been run, print a line each; returns the ratios of seconds."""
    log, ratios = folder / "measured.json", []
    kept = {name: Measured(**m) for name, m in json.loads(log.read_text()).items()} if log.exists() else {}
    print(f"{'node':32} {'forecast':>9} {'measured':>9}  ratio   clock   {'forecast MB':>11} {'MB':>8}  ratio")
    for node in read_dag(folder).nodes:
        if node.name not in kept:
            kept[node.name] = run_node(node, folder)
            write_text(log, json.dumps({name: asdict(m) for name, m in kept.items()}, indent=1))
        seconds, size = told(run, node.name)
        found = kept[node.name]
        ratios.append(seconds / found.core_s)
        line = f"{node.name:32} {seconds:8.1f}s {found.core_s:8.1f}s {ratios[-1]:6.2f} {found.wall_s:6.0f}s"
        print(f"{line}   {size / 1e6:11.2f} {found.bytes / 1e6:8.2f} {size / found.bytes:6.2f}", flush=True)
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="a file of recipes/ (default: params.yaml)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
    parser.add_argument("--rates", type=Path, help="figures of this machine, from bench.rates")
    parser.add_argument("--folder", type=Path, help="workspace to run in, kept")
    parser.add_argument("--check", action="store_true", help=f"fail where they differ by more than {FACTOR:g} times")
    args = parser.parse_args()
    params = merged_params(recipe_file(args.recipe) if args.recipe else None, [parse_change(c) for c in args.set])
    run = forecast(params, read_rates(file=args.rates))
    with tempfile.TemporaryDirectory() as name:
        ratios = compare(run, make_workspace(args.folder or Path(name), params))
    off = sum(not 1 / FACTOR <= ratio <= FACTOR for ratio in ratios)
    spread = f"ratios {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{len(ratios) - off} of {len(ratios)} nodes within a factor of {FACTOR:g}; {spread}")
    return int(args.check and off > 0)


if __name__ == "__main__":
    raise SystemExit(main())
