"""A run on the terminal: one table drawn over itself, or a line for each change where the output is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TextIO

from pipelines.submit.state import RunState, TaskState

MARKS = {"waiting": "·", "pending": "…", "running": "▶", "succeeded": "✓", "cached": "↺", "skipped": "-",
         "failed": "✗", "canceled": "■"}  # fmt: skip
ASCII = {"waiting": ".", "pending": "~", "running": ">", "succeeded": "+", "cached": "=", "skipped": "-",
         "failed": "X", "canceled": "#"}  # fmt: skip
COLOURS = {"pending": "33", "running": "36", "succeeded": "32", "cached": "32", "failed": "31", "canceled": "31"}
FIRST = ("failed", "canceled", "running", "pending")  # what stays in sight where the table is taller than the screen


def duration(seconds: float) -> str:
    """`2:03:04`, or `3:04` below an hour."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def summary(run: RunState) -> str:
    """`12 of 27 done, 1 running, 1 pending`."""
    counts = Counter(one.state for one in run.tasks)
    done = counts["succeeded"] + counts["cached"]
    cached = f" ({counts['cached']} from the cache)" if counts["cached"] else ""
    others = [f"{counts[state]} {state}" for state in (*FIRST, "skipped") if counts[state]]
    return ", ".join([f"{done} of {len(run.tasks)} done{cached}", *others])


def detail(one: TaskState, now: float, note: str) -> str:
    """What is to be said of a task beside its name and state."""
    words = []
    if one.started and one.state != "cached":
        words.append(duration((one.finished or now) - one.started))
    if one.parts:
        words.append(f"{one.parts[0]} of {one.parts[1]} parts")
    if one.attempts > 1 and not one.parts:
        words.append(f"attempt {one.attempts}")
    return "  ".join([*words, note] if note else words)


class Screen:
    """Shows a run again and again.

    Args:
        out: where to.
        live: draw a table over itself; default: where `out` is a terminal.
    """

    def __init__(self, out: TextIO | None = None, live: bool | None = None) -> None:
        self.out = out or sys.stdout
        self.live = self.out.isatty() if live is None else live
        self.colour = self.live and "NO_COLOR" not in os.environ
        unicode = (getattr(self.out, "encoding", None) or "").lower().startswith("utf")
        self.marks = MARKS if unicode else ASCII
        self._drawn = 0
        self._said: dict[str, tuple[str, ...]] = {}

    def show(self, run: RunState, notes: Mapping[str, str], now: float) -> None:
        """Bring it up to date.

        Args:
            run: how far the run is.
            notes: task key -> what holds it up.
            now: seconds since the epoch.
        """
        if self.live:
            self._draw(self._table(run, notes, now))
        else:
            self._changes(run, notes, now)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.live and self._drawn:
            self.out.write("\n")
        self._drawn = 0
        self.out.write(f"{line}\n")
        self.out.flush()

    def _changes(self, run: RunState, notes: Mapping[str, str], now: float) -> None:
        for one in run.tasks:
            note = notes.get(one.task.key, "")
            facts = (one.state, note, str(one.parts), str(one.attempts))
            if self._said.get(one.task.key, ("waiting", "", "()", "0")) != facts:
                self._said[one.task.key] = facts
                words = "  ".join(filter(None, [f"{one.task.label:<28}", f"{one.state:<9}", detail(one, now, note)]))
                self.out.write(f"{duration(now - run.created):>8}  {words.rstrip()}\n")
        self.out.flush()

    def _table(self, run: RunState, notes: Mapping[str, str], now: float) -> list[str]:
        columns, rows = shutil.get_terminal_size()
        width = max((len(one.task.label) for one in run.tasks), default=0)
        shown = _in_sight(run.tasks, rows - 4)
        lines = [f"{run.name}  {duration((run.finished or now) - run.created)}  {run.state}: {summary(run)}"]
        for one in shown:
            mark, rest = self.marks[one.state], detail(one, now, notes.get(one.task.key, ""))
            word = "" if one.state == "waiting" else one.state  # most lines of a fresh run; the mark says it
            lines.append(f" {mark} {one.task.label:<{width}}  {word:<9}  {rest}".rstrip())
        if len(shown) < len(run.tasks):
            lines.append(f"   and {len(run.tasks) - len(shown)} more")
        cut = [line[: columns - 1] for line in lines]
        return [
            self._paint(line, one.state if one else "") for line, one in zip(cut, [None, *shown, None], strict=False)
        ]

    def _paint(self, line: str, state: str) -> str:
        """Colour the mark of a task's line."""
        colour = COLOURS.get(state)
        return f"\x1b[{colour}m{line[:2]}\x1b[0m{line[2:]}" if self.colour and colour else line

    def _draw(self, lines: list[str]) -> None:
        back = f"\x1b[{self._drawn}F" if self._drawn else ""
        self.out.write(back + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[0J")
        self.out.flush()
        self._drawn = len(lines)


def _in_sight(tasks: list[TaskState], room: int) -> list[TaskState]:
    """All tasks, or those that matter most now, in their order."""
    if len(tasks) <= room:
        return tasks
    urgency = {state: place for place, state in enumerate((*FIRST, "waiting", "succeeded", "cached", "skipped"))}
    places = sorted(range(len(tasks)), key=lambda place: (urgency[tasks[place].state], place))
    return [tasks[place] for place in sorted(places[: max(room, 1)])]
