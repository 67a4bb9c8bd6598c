"""The rasteriser: frames and their truth from one and the same geometry.

Every part is a sprite warped into the frame; a pixel belongs to the last toy that covers at least half of it. Masks,
boxes, polygons and parts are all read from the id buffer that this fills, so truth cannot differ from the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from components.download.world.body import Array
from components.download.world.classes import JOINTS, PART
from components.download.world.config import WorldParams
from components.download.world.ground import Ground, make_ground
from components.download.world.scene import Actor, Shot
from components.download.world.sprite import Sprite, paint

Bytes = NDArray[np.uint8]
HALF = 127  # a pixel is covered when more than half of it is
SHADOW_PX = 32  # half-width of the one shadow sprite
SHADOW = 0.4  # darkest part of a shadow
BLOCK_S = 2.0  # poses are computed for this many seconds at a time, so memory does not grow with the clip

# parts of the right and left side change places when a toy looks to the left: the near side is then the left one
SIDES = np.arange(256, dtype=np.uint8)
for _pair in ("arm", "leg", "shoe"):
    SIDES[[PART[f"right-{_pair}"], PART[f"left-{_pair}"]]] = PART[f"left-{_pair}"], PART[f"right-{_pair}"]


@dataclass(frozen=True)
class Seen:
    """A toy in a frame.

    Attributes:
        number: its value in the id buffer.
        kind: class name.
        whole_px: pixels it would have in the frame with nothing before it.
        joints: (15, 2) x, y in pixels for a person, in JHMDB's order; otherwise None.
    """

    number: int
    kind: str
    whole_px: int
    joints: Array | None


@dataclass(frozen=True)
class Frame:
    """One instant: `image` (h, w, 3) BGR, `ids` (h, w) uint16, `parts` and `ground` (h, w) uint8, toys back to front.

    `ground` holds 1 + position in GROUNDS under the toys, too. Without truth `parts` and `ground` stay 0.
    """

    image: Bytes
    ids: NDArray[np.uint16]
    parts: Bytes
    ground: Bytes
    seen: tuple[Seen, ...]


class Renderer:
    """Draws one shot at the size given by `params`."""

    def __init__(self, params: WorldParams, shot: Shot, *, truth: bool = True) -> None:
        self.params, self.shot, self.truth = params, shot, truth
        self.size = (params.width_px, params.height_px)
        # sheet and sprites are painted at the resolution of a frame of zoom 1
        self.ground: Ground = make_ground(np.random.default_rng((*shot.key, 0)), float(params.height_px))
        self.sprites: dict[int, dict[str, Sprite]] = {}

    def frames(self, times: Array) -> Iterator[Frame]:
        """Frames at `times` (T,) seconds, which must grow."""
        edges = np.searchsorted(times, np.arange(times[0], times[-1] + BLOCK_S, BLOCK_S))
        for block in np.split(times, edges[1:]):
            if len(block):
                yield from self._block(block)

    def _block(self, times: Array) -> Iterator[Frame]:
        actors = self.shot.alive(times[0], times[-1])
        self.sprites = {n: s for n, s in self.sprites.items() if n in {a.number for a in actors}}
        views = self.shot.view(times, self.size)
        stages = [_Stage(actor, times, views) for actor in actors]
        tables = _light_tables(self.shot.light.gains(times))
        for t in range(len(times)):
            yield self._frame(t, views[t], stages, tables[t])

    def _frame(self, t: int, view: Array, stages: list[_Stage], table: Bytes) -> Frame:
        width, height = self.size
        unit = np.diag([1 / self.ground.px_per_unit, 1 / self.ground.px_per_unit, 1])
        to_frame = (view @ unit)[:2]
        image = cv2.warpAffine(self.ground.pixels, to_frame, self.size, borderMode=cv2.BORDER_REFLECT_101)
        ids = np.zeros((height, width), np.uint16)
        parts, ground = np.zeros((2, height, width), np.uint8)
        if self.truth:
            cv2.warpAffine(
                self.ground.kinds, to_frame, self.size, ground, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
            )
        near = [stage for stage in stages if stage.in_view(t, self.size)]
        near.sort(key=lambda stage: (stage.depth[t], stage.actor.number))
        for stage in near:
            _cast_shadow(image, stage, t)
        seen = [self._draw(image, ids, parts, stage, t) for stage in near]
        image = cv2.LUT(image, table)
        return Frame(image, ids, parts, ground, tuple(s for s in seen if s.whole_px or not self.truth))

    def _draw(self, image: Bytes, ids: NDArray[np.uint16], parts: Bytes, stage: _Stage, t: int) -> Seen:
        actor = stage.actor
        sprites = self._sprites(actor)
        touched = _Box()
        for name, sprite in sprites.items():
            matrix = stage.poses[name][t] @ sprite.to_part
            placed = _place(sprite.pixels, matrix, self.size)
            if placed is None:
                continue
            window, pixels, local = placed
            alpha = _blend(image[window], pixels)
            covered = alpha > HALF
            ids[window][covered] = actor.number
            touched.add(window)
            if self.truth:
                _label(parts[window], sprite, local, covered, actor.kind, stage.flipped[t])
        whole = 0
        if self.truth and touched.window is not None:
            whole = int(np.count_nonzero(ids[touched.window] == actor.number))
        return Seen(actor.number, actor.kind, whole, stage.joints(t))

    def _sprites(self, actor: Actor) -> dict[str, Sprite]:
        if actor.number not in self.sprites:
            rng = np.random.default_rng((*actor.key, 1))
            scale = actor.size * self.params.height_px
            self.sprites[actor.number] = {p.name: paint(p.shapes, scale, rng) for p in actor.body.parts}
        return self.sprites[actor.number]


class _Stage:
    """Where an actor and its parts are at the T instants of a block."""

    def __init__(self, actor: Actor, times: Array, views: Array) -> None:
        self.actor = actor
        clocks = actor.clocks(times)
        self.place = views @ actor.stand(times)
        self.poses = {name: self.place @ pose for name, pose in actor.body.pose(clocks).items()}
        self.flipped = actor.facing(times) < 0
        x, y = actor.position(times).T
        self.depth = y + (1e3 if actor.body.altitude else 0.0)  # what flies is in front of what stands
        self.feet = views @ np.stack([x, y, np.ones_like(x)], axis=1)[..., None]
        self.reach = 2.0 * np.hypot(self.place[:, 0, 1], self.place[:, 1, 1])  # no toy is larger about its feet
        self.width = (
            np.abs(actor.facing(times)) * actor.body.shadow * np.hypot(self.place[:, 0, 1], self.place[:, 1, 1])
        )

    def in_view(self, t: int, size: tuple[int, int]) -> bool:
        x, y = self.place[t, :2, 2]
        reach = self.reach[t]
        return bool(-reach < x < size[0] + reach and -reach < y < size[1] + reach)

    def joints(self, t: int) -> Array | None:
        """(15, 2) pixels in JHMDB's order. Looking to the right, the near side is the right one."""
        if not self.actor.body.joints:
            return None
        left, right = ("near", "far") if self.flipped[t] else ("far", "near")
        out = np.empty((len(JOINTS), 2))
        for row, joint in enumerate(JOINTS):
            side, _, rest = joint.partition("_")
            name = {"left": f"{left}_{rest}", "right": f"{right}_{rest}"}.get(side, joint)
            part, point = self.actor.body.joints[name]
            out[row] = (self.poses[part][t] @ (*point, 1.0))[:2]
        return out


class _Box:
    """The window around all windows added."""

    def __init__(self) -> None:
        self.window: tuple[slice, slice] | None = None

    def add(self, window: tuple[slice, slice]) -> None:
        if self.window is None:
            self.window = window
        else:
            rows, columns = (
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(self.window, window, strict=True)
            )
            self.window = (rows, columns)


def _place(pixels: Bytes, matrix: Array, size: tuple[int, int]) -> tuple[tuple[slice, slice], Bytes, Array] | None:
    """Warp a sprite: the window of the frame it falls into, its pixels there, and the map into that window."""
    height, width = pixels.shape[:2]
    corners = matrix[:2, :2] @ np.array([[-1, width, -1, width], [-1, -1, height, height]]) + matrix[:2, 2:]
    (x0, y0), (x1, y1) = np.floor(corners.min(axis=1)).tolist(), np.ceil(corners.max(axis=1)).tolist()
    left, top, right, bottom = max(0, int(x0)), max(0, int(y0)), min(size[0], int(x1) + 1), min(size[1], int(y1) + 1)
    if left >= right or top >= bottom:
        return None
    local = matrix[:2].copy()
    local[:, 2] -= (left, top)
    warped = cv2.warpAffine(pixels, local, (right - left, bottom - top))
    return (slice(top, bottom), slice(left, right)), warped, local


def _blend(target: Bytes, pixels: Bytes) -> Bytes:
    """Lay pixels (h, w, 4), already multiplied by their alpha, over `target` (h, w, 3) in place; returns alpha."""
    alpha = cv2.extractChannel(pixels, 3)
    rest = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR)
    cv2.multiply(target, rest, dst=target, scale=1 / 255)
    cv2.add(target, cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR), dst=target)
    return alpha


def _label(
    parts: Bytes, sprite: Sprite, local: Array, covered: NDArray[np.bool_], kind: str, flipped: np.bool_
) -> None:
    """Write the VIP labels of a person's part; everything else hides what lay behind it."""
    if kind != "person":
        parts[covered] = 0
        return
    labels = cv2.warpAffine(sprite.labels, local, parts.shape[::-1], flags=cv2.INTER_NEAREST)
    # a covered pixel whose nearest sprite pixel is just outside the outline takes the part's main label
    labels[labels == 0] = sprite.main_label
    parts[covered] = SIDES[labels[covered]] if flipped else labels[covered]


def _shadow_sprite() -> Bytes:
    y, x = np.mgrid[-SHADOW_PX : SHADOW_PX + 1, -SHADOW_PX : SHADOW_PX + 1] / SHADOW_PX
    alpha = 255 * SHADOW * np.clip(1 - (x**2 + y**2), 0, 1)
    return np.dstack([np.zeros((*alpha.shape, 3)), alpha]).astype(np.uint8)


_SHADOW = _shadow_sprite()


def _cast_shadow(image: Bytes, stage: _Stage, t: int) -> None:
    x, y = stage.feet[t, :2, 0]
    half = stage.width[t] / SHADOW_PX
    matrix = np.array([[half, 0, x - half * SHADOW_PX], [0, 0.22 * half, y - 0.22 * half * SHADOW_PX], [0, 0, 1]])
    placed = _place(_SHADOW, matrix, (image.shape[1], image.shape[0]))
    if placed is not None:
        _blend(image[placed[0]], placed[1])


def _light_tables(gains: Array) -> Bytes:
    """(T, 256, 1, 3) lookup tables."""
    levels = np.arange(256)[None, :, None] * gains[:, None, :]
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)[:, :, None, :]
