"""`python -m components.common.tracking sync`: send what a server that was away has missed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.common.context import cache_root
from components.common.tracking.journal import Journal, pending


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m components.common.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="send every pending journal to MLflow")
    commands.add_parser("pending", help="list the journals that were not sent to their end")
    commands.add_parser("follow", help="send all journals until SIGTERM (a pipeline starts this itself)")
    live = commands.add_parser("forward", help="send one live journal (stages start this themselves)")
    live.add_argument("journal", type=Path)
    live.add_argument("folder", type=Path)
    args = parser.parse_args()
    folder = cache_root() / "tracking"
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


if __name__ == "__main__":
    raise SystemExit(main())
