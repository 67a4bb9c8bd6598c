"""Entry of the sample world: render clips side by side, keep what is done, put it all together at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.outputs import PARTIAL, flush, put_in_place, remove
from components.common.progress import Progress
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts import WRITERS
from components.download.world.layouts.writer import Facts
from components.download.world.workers import run_jobs

FACTS = "facts.json"


@dataclass(frozen=True)
class Job:
    """One clip for one layout; its files go to `place`, a folder that is whole once it is there."""

    layout: str
    clip: Clip
    place: Path

    def run(self) -> int:
        """Render unless it was done before; returns the number of frames drawn."""
        partial = self.place.with_name(f".{self.place.name}.{os.getpid()}{PARTIAL}")
        partial.mkdir(parents=True)
        try:
            facts = WRITERS[self.layout].write(self.clip, partial)
            (partial / FACTS).write_text(json.dumps(facts), encoding="utf-8")
            put_in_place(partial, self.place)
        finally:
            remove(partial)
        return int(facts["frames"])

    def facts(self) -> Facts:
        return dict(json.loads((self.place / FACTS).read_text(encoding="utf-8")))


def write_world(params: WorldParams, out: Path, scratch: Path, progress: Progress) -> dict[str, Any]:
    """Write the layouts that `params` names below `out`, an empty folder.

    Args:
        params: what to write; one layout is written at the root of `out`, several into `out/<layout>`.
        out: empty folder.
        scratch: folder that survives kills and is kept for equal `params` only (`workers` may differ): finished clips
            wait there, and a later call takes them up.
        progress: counts clips; its total is set here.

    Returns:
        Which layouts, and how many clips and frames were drawn for them.
    """
    jobs = {name: list(_jobs(name, params, scratch)) for name in params.layouts}
    everything = [job for own in jobs.values() for job in own]
    for leftover in scratch.glob(f"*/.*{PARTIAL}"):  # of a run that was killed
        remove(leftover)
    pending = [job for job in everything if not job.place.is_dir()]
    progress.total = len(everything)
    progress.update(len(everything) - len(pending))
    drawn = 0
    for frames in run_jobs(pending, params.workers):
        drawn += frames
        progress.update(1, frames=drawn)
    frames = sum(_assemble(name, own, out if len(jobs) == 1 else out / name, params) for name, own in jobs.items())
    return {"layouts": ",".join(params.layouts), "clips": len(everything), "frames": frames}


def _assemble(name: str, jobs: list[Job], root: Path, params: WorldParams) -> int:
    """Put a layout together from its clips; returns the frames drawn for it."""
    for job in jobs:
        _link_tree(job.place, root)
    facts = [job.facts() for job in jobs]
    WRITERS[name].finish(facts, root, params)
    return sum(int(fact["frames"]) for fact in facts)


def _jobs(name: str, params: WorldParams, scratch: Path) -> Iterator[Job]:
    for clip in WRITERS[name].clips(params):
        yield Job(name, clip, scratch / name / clip.name)


def _link_tree(source: Path, target: Path) -> None:
    """The files of `source` (but its facts) below `target`: second names where the disk allows, else copies."""
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif file.name != FACTS:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, place)
                flush(place)
