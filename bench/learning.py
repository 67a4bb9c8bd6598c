"""Does every method learn? Each from its start, at an equal budget, over several seeds, judged before and after.

python -m bench.learning                                      # both corpora, all methods, three seeds
python -m bench.learning --recipes learning/sample --methods dino ibot --seeds 0
python -m bench.learning --write docs/results.md docs/images  # the table and the curves, from what has run

Runs and figures lie in runs/<recipe>/ (models, metrics); what is there is not made again, so an interrupted bench goes
on, and after a change of the profile the runs it touches are to be deleted first. A gain counts when its mean is above
twice the deviation of the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from components.common.config import read_yaml
from pipelines.repro import environment
from pipelines.workspace import ROOT, SCRATCH, make_workspace, merged_params, recipe_file

RECIPES = ("learning/sample", "learning/videos")
RANDOM = "random"  # the untrained start of all that begin without weights
VARIANTS = {"knn_cls": ("knn", ["--set", "feature=cls"])}  # judged beside the recipe's tasks, with other parameters


class Gain(NamedTuple):
    """One method in one task: means over seeds, and the deviation of the gain."""

    start: float
    end: float
    gain: float
    deviation: float

    @property
    def counts(self) -> bool:
        """Above twice the seeds' deviation."""
        return self.gain > 2 * self.deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--methods", nargs="+", help="default: all of the recipe")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings side by side, one thread each")
    parser.add_argument(
        "--write", nargs=2, type=Path, metavar=("PAGE", "PICTURES"), help="write the page, train nothing"
    )
    args = parser.parse_args()
    if args.write:
        from bench.learning_page import write_page

        page, pictures = args.write
        write_page(page, pictures, args.recipes, args.seeds)
        return
    for recipe in args.recipes:
        folder = workspace(recipe)
        run_all(folder, args.methods, args.seeds, args.jobs)
        show(folder, args.seeds)


def workspace(recipe: str) -> Path:
    """The recipe's workspace, with its data made; nothing of that is done twice."""
    folder = make_workspace(place(recipe), merged_params(recipe_file(recipe), []))
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "download", "index"]
    env = environment(f"learning-{folder.name}") | {"LONGTAKE_TRACKING": "off", "LONGTAKE_HOME": str(folder)}
    subprocess.run(command, cwd=folder, env=env, check=True)
    return folder


def place(recipe: str) -> Path:
    return ROOT / "runs" / recipe.replace("/", "-")


def run_all(folder: Path, methods: Sequence[str] | None, seeds: Sequence[int], jobs: int) -> None:
    """Train and judge every method with every seed, `jobs` at a time; those that others start from come first."""
    starts: dict[str, str] = read_yaml(folder / "params.yaml")["methods"]
    wanted = [name for name in starts if not methods or name in methods or name == RANDOM]
    first = [name for name in wanted if starts[name] == SCRATCH]
    os.environ |= {"OMP_NUM_THREADS": "1", "LONGTAKE_TRACKING": "off", "LONGTAKE_HOME": str(folder)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for names in (first, [name for name in wanted if name not in first]):
            runs = [pool.submit(run_one, folder, name, starts[name], seed) for seed in seeds for name in names]
            for run in runs:  # one that fails has said why, and does not keep the others from running
                print(run.exception() or run.result(), flush=True)


def run_one(folder: Path, method: str, start: str, seed: int) -> str:
    """Train one method and judge it by every task; what is there already is not made again."""
    from components.common.stage import main as stage
    from components.evaluate import __main__ as evaluate
    from components.pretrain import __main__ as pretrain

    os.chdir(folder)
    params, run = read_yaml(Path("params.yaml")), f"{method}-{seed}"
    corpus = params["corpus"]
    if not Path("models", run).is_dir():
        begin = start if start == SCRATCH else f"{start}-{seed}"
        inputs = ["--frames", f"data/frames/{corpus}", "--index", f"data/index/{corpus}", "--start", begin]
        ends(
            stage(
                pretrain.STAGE,
                pretrain.run,
                ["--method", method, *inputs, "--set", f"seed={seed}", "--model", f"models/{run}"],
            ),
            run,
        )
    for column in columns(params):
        if not Path("metrics", f"{run}-{column}.json").is_file():
            task, changes = VARIANTS.get(column, (column, []))
            inputs = ["--model", f"models/{run}", "--benchmark", f"data/benchmarks/{task}", *changes]
            outputs = ["--metrics", f"metrics/{run}-{column}.json", "--details", f"results/{run}-{column}"]
            ends(stage(evaluate.STAGE, evaluate.run, ["--method", run, "--task", task, *inputs, *outputs]), run)
    return "  ".join([f"{run:20}", *(f"{column} {figure(folder, run, column):.4f}" for column in columns(params))])


def columns(params: dict[str, Any]) -> list[str]:
    """What a model is judged by: the recipe's tasks, each followed by its variants."""
    tasks: list[str] = params["tasks"]
    return [
        name for task in tasks for name in (task, *(variant for variant, (of, _) in VARIANTS.items() if of == task))
    ]


def ends(code: int, run: str) -> None:
    if code:
        raise SystemExit(f"learning: {run} ended with code {code}")


def figure(folder: Path, run: str, task: str) -> float:
    """The primary figure of a run in a task."""
    found: dict[str, Any] = json.loads((folder / "metrics" / f"{run}-{task}.json").read_text())
    return float(found["metrics"][found["primary"]])


def gain(folder: Path, method: str, start: str, task: str, seeds: Sequence[int]) -> Gain:
    """What training brought, paired by seed: each run against the very weights it started from."""
    origin = RANDOM if start == SCRATCH else Path(start).name
    pairs = [(figure(folder, f"{origin}-{seed}", task), figure(folder, f"{method}-{seed}", task)) for seed in seeds]
    differences = [after - before for before, after in pairs]
    before, after = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    deviation = statistics.stdev(differences) if len(seeds) > 1 else float("nan")
    return Gain(before, after, statistics.fmean(differences), deviation)


def finished(folder: Path, seeds: Sequence[int]) -> dict[str, str]:
    """Methods of the recipe whose every run is judged, and what they start from."""
    params = read_yaml(folder / "params.yaml")
    files = {
        method: [folder / "metrics" / f"{method}-{seed}-{name}.json" for seed in seeds for name in columns(params)]
        for method in params["methods"]
    }
    return {method: start for method, start in params["methods"].items() if all(f.is_file() for f in files[method])}


def show(folder: Path, seeds: Sequence[int]) -> None:
    """One line a method: start -> end, deviation, and whether the gain counts."""
    tasks = columns(read_yaml(folder / "params.yaml"))
    for method, start in finished(folder, seeds).items():
        if method != RANDOM:
            found = {task: gain(folder, method, start, task, seeds) for task in tasks}
            cells = [
                f"{t} {g.start:.3f} -> {g.end:.3f} sd {g.deviation:.3f}{' *' if g.counts else '  '}"
                for t, g in found.items()
            ]
            print(f"{method:18} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
