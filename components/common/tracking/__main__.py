"""`python -m components.common.tracking sync`: send what a server that was away has missed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from components.common.context import cache_root
from components.common.errors import ExitCode
from components.common.tracking.journal import Journal, pending

OUTCOMES = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED"}  # Kubeflow's state -> MLflow's; any other has failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m components.common.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="send every pending journal to MLflow")
    commands.add_parser("pending", help="list the journals that were not sent to their end")
    commands.add_parser("follow", help="send all journals until SIGTERM (a pipeline starts this itself)")
    live = commands.add_parser("forward", help="send one live journal (stages start this themselves)")
    live.add_argument("journal", type=Path)
    live.add_argument("folder", type=Path)
    finish = commands.add_parser("finish", help="say how the pipeline ended (its exit task runs this)")
    finish.add_argument("--status", required=True, metavar="JSON", help="the final status that Kubeflow hands over")
    finish.add_argument("--revision", default="", help="git revision of the pipeline")
    args = parser.parse_args()
    folder = cache_root() / "tracking"
    if args.command == "finish":
        return end(args.status, args.revision)
    if args.command == "pending":
        print("\n".join(journal.folder.name for journal in pending(folder)) or "nothing is pending")
        return 0
    from components.common.tracking import forward

    if args.command == "forward":
        forward.forward(Journal(args.journal), args.folder)
        return 0
    if args.command == "follow":
        forward.follow(folder)
        return 0
    waiting = len(pending(folder))
    troubles = forward.sync(folder)
    for uid, trouble in troubles:
        print(f"{uid}: {trouble}", file=sys.stderr)
    print(f"{waiting - len(troubles)} of {waiting} pending runs sent")
    return 1 if troubles else 0


def end(status: str, revision: str) -> int:
    """Send what is pending, then close the pipeline's run; 1 if MLflow cannot be reached (Kubeflow tries again)."""
    from components.common.tracking import forward

    try:
        told = json.loads(status)
        state, why = str(told["state"]), str((told.get("error") or {}).get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        print(f"finish: not a final status of Kubeflow: {status}", file=sys.stderr)
        return int(ExitCode.BAD_INPUT)
    outcome = OUTCOMES.get(state, "FAILED")
    pending_troubles = forward.sync(cache_root() / "tracking")
    try:
        run_id = forward.end_pipeline(os.environ.get("LONGTAKE_PIPELINE_RUN", "pipeline"), outcome, why, revision)
    except Exception as error:  # whatever the server's trouble is, it is one line
        line = " ".join(str(error).split())[:200]
        print(f"finish: {outcome}, but MLflow did not take it: {line} (is its address right?)", file=sys.stderr)
        return int(ExitCode.CRASH)
    print(f"finish: {outcome} {why}".rstrip() + f" (MLflow run {run_id}, {len(pending_troubles)} journals pending)")
    return int(ExitCode.OK)


if __name__ == "__main__":
    raise SystemExit(main())
