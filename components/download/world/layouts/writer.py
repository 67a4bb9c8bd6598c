"""What a layout is: what it writes for one clip, and what it writes once all clips are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.scene import Theme

Facts = dict[str, Any]  # JSON; always holds "split" and "frames" (pictures drawn)


@dataclass(frozen=True)
class Writer:
    """A benchmark's layout.

    Attributes:
        write: writes a clip's files below a folder, at the paths they will have in the benchmark; returns facts.
        finish: writes lists and tables below the benchmark's folder from all clips' facts, in the clips' order.
        one_split: the layout holds `params.clips` clips of `params.split`; else train_clips and val_clips.
        theme: what the clips show.
        cuts: whether clips may hold hard cuts.
    """

    write: Callable[[Clip, Path], Facts]
    finish: Callable[[list[Facts], Path, WorldParams], None]
    one_split: bool = False
    theme: Theme = "mixed"
    cuts: bool = False

    def clips(self, params: WorldParams) -> list[Clip]:
        """The clips of the layout, in order."""
        counts = (
            {params.split: params.clips} if self.one_split else {"train": params.train_clips, "val": params.val_clips}
        )
        return [
            Clip(params, split, number, self.theme, self.cuts)
            for split, count in counts.items()
            for number in range(count)
        ]


def of_split(facts: Iterable[Facts], split: str) -> list[Facts]:
    """The facts of one split's clips."""
    return [fact for fact in facts if fact["split"] == split]


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """A list file; every line ends with a newline (DAVIS' and VOC's readers cut the last character off)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
