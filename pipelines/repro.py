"""`make repro`: run the DAG with DVC, then say what came out and where to look."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.common.errors import ExitCode, StageError
from components.common.stage import parse_change
from components.common.tracking.tracker import git_revision
from pipelines import failures
from pipelines.workspace import ROOT, dataset_params, make_workspace, merged_params, recipe_file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.repro", description=__doc__)
    parser.add_argument("--recipe", help="a file of recipes/ (by name) or any other; runs in runs/<name>")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="a dataset of recipes/catalogue.yaml, up to its index",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change one parameter (with --recipe or --dataset)"
    )
    parser.add_argument("--target", action="append", default=[], help="only these stages and what they need")
    args = parser.parse_args(argv)
    try:
        folder, name, targets = _folder(args)
    except StageError as error:
        print(f"repro: {error}", file=sys.stderr)
        return int(error.code)
    started = time.monotonic()
    env = environment(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    with followed(folder, env):
        code = reproduce(folder, env, args.target or targets)
    if code != 0:
        print("\nrepro: a stage failed, see above. What was finished is kept; the same command goes on from there.")
        return int(ExitCode.CRASH)
    print(summary(folder, time.monotonic() - started))
    return int(failures.tell(failures.failed(folder), "the same command tries them again"))


def reproduce(folder: Path, env: Mapping[str, str], targets: Sequence[str]) -> int:
    """`dvc repro` to its end: a stage that fails stops what needs it, nothing else. Returns DVC's exit code.

    Evaluations that had failed before, and whose inputs are what they were, are tried once more.
    """
    before = failures.stamps(folder)
    code = _dvc(folder, env, *targets)
    if again := failures.left_alone(folder, before, targets):
        print(f"\nrepro: failed the last time, once more: {', '.join(again)}", flush=True)
        _dvc(folder, env, "--force", "--single-item", *again)
        code = _dvc(folder, env, *targets)
    return code


def _dvc(folder: Path, env: Mapping[str, str], *words: str) -> int:
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going", *words]
    return subprocess.run(command, cwd=folder, env=dict(env)).returncode


def _folder(args: argparse.Namespace) -> tuple[Path, str, list[str]]:
    """The project itself, or the workspace of a recipe or of datasets; its name, and the stages that are meant."""
    if args.dataset:
        if args.recipe is not None:
            raise StageError("--dataset and --recipe exclude each other", do="name the dataset in the recipe")
        params, targets = dataset_params(args.dataset, [parse_change(text) for text in args.set])
        name = "-".join(args.dataset)
        return make_workspace(ROOT / "runs" / name, params), name, targets
    if args.recipe is None:
        if args.set:
            raise StageError("--set needs --recipe or --dataset", do="edit params.yaml to change the project's own run")
        return ROOT, "sample", []
    recipe = recipe_file(args.recipe)
    params = merged_params(recipe, [parse_change(text) for text in args.set])
    return make_workspace(ROOT / "runs" / recipe.stem, params), recipe.stem, []


def environment(pipeline_run: str) -> dict[str, str]:
    """The stages' environment: this Python first, one MLflow store for all workspaces, one run for the pipeline."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    given = {"LONGTAKE_HOME": str(ROOT), "LONGTAKE_GIT_REVISION": git_revision(), "LONGTAKE_PIPELINE_RUN": pipeline_run}
    return {"DVC_NO_ANALYTICS": "1", **given, **os.environ, "PATH": path}


@contextlib.contextmanager
def followed(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Send the stages' journals from one process: importing mlflow in each stage would cost seconds a stage."""
    tracking = Path(env.get("LONGTAKE_CACHE", folder / ".cache")) / "tracking"
    tracking.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "components.common.tracking", "follow"]
    with (tracking / "follower.log").open("ab") as log:
        follower = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        follower.terminate()
        follower.wait()


def summary(folder: Path, seconds: float, mlflow: str = "make ui   (then http://127.0.0.1:5000)") -> str:
    """The last words of a run: leaderboard, decision, report, and how to see it in MLflow."""
    lines = [""]
    board = folder / "report" / "leaderboard.txt"
    if board.exists():
        lines += [board.read_text(encoding="utf-8").strip("\n"), ""]
    decision = folder / "promotion" / "decision.json"
    if decision.exists():
        made = json.loads(decision.read_text(encoding="utf-8"))
        lines += [f"Promotion   {made['outcome']}: {made['reason']}"]
    lines += [
        f"Report      {folder / 'report' / 'index.html'}",
        f"MLflow      {mlflow}",
        f"Time        {int(seconds // 60)} min {int(seconds % 60)} s in {folder}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
