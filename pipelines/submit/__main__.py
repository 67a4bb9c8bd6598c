"""Submit the pipeline to Kubeflow: `python -m pipelines.submit --host URL [--recipe R] [--set a.b=c] [--watch]`.

Exit codes: 0 submitted (with --watch: the run succeeded), 1 the run failed, 130 it was cancelled, or watching was
interrupted while it goes on; any other: nothing was submitted (`components.common.errors.ExitCode`).
"""

from __future__ import annotations

import argparse
import sys

from components.common.errors import ExitCode, StageError


def main(argv: list[str] | None = None) -> int:
    from pipelines.submit.cli import add_access

    parser = argparse.ArgumentParser(prog="python -m pipelines.submit", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--recipe", help="a file of recipes/ (by name) or any other")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
    parser.add_argument("--experiment", default="longtake", metavar="NAME", help="Kubeflow's experiment")
    parser.add_argument("--watch", action="store_true", help="stay and show the progress")
    parser.add_argument("--no-cache", action="store_true", help="run everything, whatever Kubeflow's cache holds")
    parser.add_argument("--dry-run", action="store_true", help="compile and check, submit nothing")
    parser.add_argument("--skip-preflight", action="store_true", help="submit without looking at the cluster")
    parser.add_argument("--mlflow", metavar="URL", help="MLflow's address for people; default: MLFLOW_TRACKING_URI")
    add_access(parser)
    args = parser.parse_args(argv)
    try:
        from pipelines.submit.submit import submit

        return int(submit(args))
    except StageError as error:
        print(f"submit: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print("submit: interrupted before the run was created", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())
