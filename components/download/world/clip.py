"""A clip: one or more shots at a frame rate. The same for every layout that asks for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from components.download.world.config import WorldParams
from components.download.world.render import Frame, Renderer
from components.download.world.scene import SPLITS, THEMES, Shot, Theme, make_shot

CUTS = 2**31  # stream of the cut times; shots are numbered from 0


@dataclass(frozen=True)
class Clip:
    """Clip `number` of a split. `cut_allowed`: whether it may hold hard cuts at all."""

    params: WorldParams
    split: str
    number: int
    theme: Theme = "mixed"
    cut_allowed: bool = False

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    @cached_property
    def cuts(self) -> list[int]:
        """First frames of all shots but the first: a chance per second, at an instant drawn within it."""
        params = self.params
        if not self.cut_allowed or not params.cuts_per_s:
            return []
        key = (params.seed, SPLITS.index(self.split), THEMES.index(self.theme), self.number, CUTS)
        rng = np.random.default_rng(key)
        draws = rng.random((int(np.ceil(params.clip_s)), 2))
        seconds = np.arange(len(draws)) + draws[:, 1]
        frames = np.round(seconds[draws[:, 0] < params.cuts_per_s] * params.fps).astype(int)
        return [int(f) for f in np.unique(frames) if 0 < f < params.n_frames]

    def shots(self) -> Iterator[tuple[int, int, Shot]]:
        """(first frame, frame after the last, shot) in order."""
        edges = [0, *self.cuts, self.params.n_frames]
        for k, (start, end) in enumerate(itertools.pairwise(edges)):
            length = (end - start) / self.params.fps
            yield start, end, make_shot(self.params, self.split, self.theme, self.number, k, length)

    def frames(self, wanted: Sequence[int] | None = None, *, truth: bool = True) -> Iterator[tuple[int, Frame]]:
        """(frame number, frame), all or the `wanted` ones (in growing order). Without `truth`, pictures only."""
        for start, end, shot in self.shots():
            numbers = [n for n in (range(start, end) if wanted is None else wanted) if start <= n < end]
            if numbers:
                times = (np.array(numbers, float) - start) / self.params.fps
                yield from zip(numbers, Renderer(self.params, shot, truth=truth).frames(times), strict=True)

    def stills(self) -> list[int]:
        """Frame numbers of the clip's stills, evenly in time."""
        count = min(self.params.stills_per_clip, self.params.n_frames)
        return [int((k + 0.5) * self.params.n_frames / count) for k in range(count)]
