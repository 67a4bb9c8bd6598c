"""What people do by hand: explain a decision, roll back, list versions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from components.common.errors import StageError
from components.common.stage import Stage, resolve_params
from components.promote.config import PromoteParams

PROG = "python -m components.promote"
DEFAULT_MODEL = PromoteParams.model_fields["model"].default


def main(stage: Stage, argv: list[str]) -> int:
    """Run one of the commands; returns the exit code."""
    try:
        COMMANDS[argv[0]](stage, argv[1:])
    except StageError as error:
        print(f"promote: {error}", file=sys.stderr)
        return int(error.code)
    return 0


def explain(stage: Stage, argv: list[str]) -> None:
    """The decision as it would be taken now, line by line; nothing is written."""
    parser = argparse.ArgumentParser(prog=f"{PROG} explain", description=explain.__doc__)
    for name, port in stage.inputs.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(name), help=port.help)
    parser.add_argument("--decision", help=argparse.SUPPRESS)  # so that a stage's command line takes --dry-run
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--param", action="append", default=[], metavar="a.b=JSON")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    args = parser.parse_args(argv)
    params = resolve_params(stage, {}, args)
    assert isinstance(params, PromoteParams)
    from components.promote import promotion
    from components.promote.decide import explained
    from components.promote.evidence import read_evidence
    from components.promote.gates import from_json
    from components.promote.registry import exists, registry

    evidence = read_evidence(args.metrics, args.models)
    if exists():
        with registry(params.model) as found:
            decision, earlier = promotion.preview(found, evidence, params)
    else:
        decision, earlier = promotion.preview(None, evidence, params)
    print("\n".join(explained(from_json(decision))))
    print("(decided before on the same inputs; nothing would change)" if earlier else "(nothing was written)")


def roll_back(stage: Stage, argv: list[str]) -> None:
    """Make the champion before the present one, or a named version, the champion again."""
    parser = argparse.ArgumentParser(prog=f"{PROG} rollback", description=roll_back.__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"registered model ({DEFAULT_MODEL})")
    parser.add_argument("--to", type=int, metavar="VERSION", help="version to reinstate; default: the one before")
    args = parser.parse_args(argv)
    from components.promote import promotion
    from components.promote.registry import exclusive, registry

    _need_registry()
    with exclusive(), registry(args.model) as found:
        promotion.known_model(found)
        left, target = promotion.rollback(found, args.to)
    same = "already was the champion" if left == target else f"is the champion again, instead of version {left}"
    print(f"{args.model}: version {target} {same}")


def show(stage: Stage, argv: list[str]) -> None:
    """All versions with their aliases, scores and outcomes."""
    parser = argparse.ArgumentParser(prog=f"{PROG} list", description=show.__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"registered model ({DEFAULT_MODEL})")
    args = parser.parse_args(argv)
    from components.promote import promotion
    from components.promote.registry import registry

    _need_registry()
    with registry(args.model) as found:
        promotion.known_model(found)
        for version in found.versions():
            scores = "  ".join(f"{task} {score.value:.4f}" for task, score in sorted(version.scores.items()))
            names = ", ".join(found.aliases(version.number)) or "-"
            state = "rolled back" if "rolled_back" in version.tags else version.tags.get("outcome", "")
            print(f"{version.number:>4}  {names:<20} {version.run:<14} {version.sha256[:12]}  {scores}  {state}")


def _need_registry() -> None:
    from components.common.tracking import store
    from components.promote.registry import exists, shown

    if not exists():
        where = shown(store.tracking_uri())
        raise StageError("there is no model registry yet", where=where, do="run the pipeline first")


COMMANDS: dict[str, Callable[[Stage, list[str]], None]] = {"explain": explain, "rollback": roll_back, "list": show}
