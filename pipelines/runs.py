"""Runs on Kubeflow: `python -m pipelines.runs {list,watch,logs,cancel,pull} ...`.

Exit codes are those of `pipelines.submit`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.config import nearest
from components.common.errors import ExitCode, StageError

if TYPE_CHECKING:
    from pipelines.submit.api import Kfp

ID_CHARS = 36  # of a whole id, a UUID


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return int(args.verb(args))
    except StageError as error:
        print(f"runs: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print("runs: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    from pipelines.submit.cli import add_access

    parser = argparse.ArgumentParser(prog="python -m pipelines.runs", description="Runs on Kubeflow.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb, text in (
        ("list", _list, "the newest runs"),
        ("watch", _watch, "show a run until it ends"),
        ("logs", _logs, "the log of a task"),
        ("cancel", _cancel, "stop a run"),
        ("pull", _pull, "fetch what a run has made into this workspace, so that `dvc repro` need not run it"),
    ):
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        if name == "list":
            sub.add_argument("--most", type=int, default=20, metavar="N", help="how many")
        else:
            sub.add_argument("run", metavar="RUN", help="its id, or the beginning of it")
        if name == "logs":
            sub.add_argument("task", metavar="TASK", help="such as pretrain@dino")
            sub.add_argument("--lines", type=int, default=1000, metavar="N", help="from the end")
        if name == "pull":
            sub.add_argument("--recipe", help="its workspace, as in submit; default: the project's own folder")
            sub.add_argument("--set", action="append", default=[], metavar="a.b=c", help="as in submit")
            sub.add_argument("--into", type=Path, metavar="FOLDER", help="a workspace with the run's own parameters")
            sub.add_argument("--task", action="append", default=[], metavar="TASK", help="only these")
        add_access(sub)
    return parser


def _list(args: argparse.Namespace) -> ExitCode:
    from pipelines.submit.cli import access
    from pipelines.submit.state import read_state

    for answer in access(args).api.runs(args.most):
        run = read_state(answer, [])
        print(f"{run.run_id}  {run.state:<9}  {answer.get('created_at', ''):<20}  {run.name}")
    return ExitCode.OK


def _watch(args: argparse.Namespace) -> ExitCode:
    from pipelines.submit.cli import access
    from pipelines.submit.submit import follow

    way = access(args)
    return follow(way, _run_id(way.api, args.run), args)


def _logs(args: argparse.Namespace) -> ExitCode:
    from pipelines.submit.cli import access
    from pipelines.submit.watch import Watch

    way = access(args)
    watch = Watch(way.api, way.kube, _run_id(way.api, args.run))
    known = {name: one for one in watch.look().tasks for name in (one.task.key, one.task.label)}
    if args.task not in known:
        labels = [one.label for one in watch.tasks]
        raise StageError(f"the run has no task '{args.task}'{nearest(args.task, labels)}")
    print("\n".join(watch.log(known[args.task], args.lines)))
    return ExitCode.OK


def _cancel(args: argparse.Namespace) -> ExitCode:
    from pipelines.submit.cli import access
    from pipelines.submit.state import read_state

    way = access(args)
    run = read_state(way.api.run(_run_id(way.api, args.run)), [])
    if run.ended:
        print(f"{run.run_id} has ended already: {run.state}")
        return ExitCode.OK
    way.api.terminate(run.run_id)
    print(f"{run.run_id} is being cancelled; what its stages can resume from is kept")
    return ExitCode.OK


def _pull(args: argparse.Namespace) -> ExitCode:
    from pipelines import failures
    from pipelines.compile import workspace_of
    from pipelines.submit.cli import access
    from pipelines.submit.pull import pull

    way = access(args)
    folder = workspace_of(args.recipe, args.set)
    code = pull(way, _run_id(way.api, args.run), folder, args.into, args.task)
    failures.tell(failures.failed(args.into or folder), failures.ON_KUBEFLOW)  # what was to be fetched is here
    return code


def _run_id(api: Kfp, given: str) -> str:
    """The id that begins so, of the newest runs."""
    if len(given) >= ID_CHARS:
        return given
    found = [str(run["run_id"]) for run in api.runs(1000) if str(run["run_id"]).startswith(given)]
    if len(found) != 1:
        what = "no run begins" if not found else f"{len(found)} runs begin"
        raise StageError(f"{what} with '{given}'", do="python -m pipelines.runs list")
    return found[0]


if __name__ == "__main__":
    raise SystemExit(main())
