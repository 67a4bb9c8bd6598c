"""Bodies: trees of rigid parts whose joints move in closed form, so that any instant can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.download.world.sprite import Shape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Clocks:
    """What drives the joints at T instants, each (T,): gait cycles done, seconds, units travelled forward."""

    gait: Array
    seconds: Array
    forward: Array


@dataclass(frozen=True)
class Motion:
    """How a part moves about its pivot.

    `swing` goes to and fro, `bend` only to the side of `amplitude`'s sign (knees, elbows), `roll` is a wheel of
    radius `amplitude`, `flap` squeezes the part's height (wings, propellers), `crank` carries the part round a
    circle of radius `amplitude` without turning it (coupling rods; geared to a wheel of radius `rest`).
    """

    kind: Literal["still", "swing", "bend", "roll", "flap", "crank"] = "still"
    amplitude: float = 0.0  # radians; units for roll and crank
    offset: float = 0.0  # of the cycle, 0..1
    rest: float = 0.0  # angle at rest, radians
    hz: float | None = None  # None: driven by the gait; else by time

    def matrices(self, clocks: Clocks) -> Array:
        """(T, 3, 3) maps from the part's coordinates to those about its pivot."""
        turns = clocks.gait if self.hz is None else self.hz * clocks.seconds
        wave = np.sin(2 * np.pi * (turns + self.offset))
        if self.kind == "roll":
            return rotation(clocks.forward / self.amplitude)
        if self.kind == "crank":
            angle = clocks.forward / self.rest + 2 * np.pi * self.offset
            return shift(self.amplitude * np.cos(angle), self.amplitude * np.sin(angle))
        if self.kind == "flap":
            return stretch(np.ones_like(wave), 1 + self.amplitude * (wave - 1) / 2) @ rotation(
                np.full_like(wave, self.rest)
            )
        swing = {"swing": wave, "bend": np.maximum(wave, 0), "still": np.zeros_like(wave)}[self.kind]
        return rotation(self.rest + self.amplitude * swing)


STILL = Motion()


@dataclass(frozen=True)
class Part:
    """A rigid part: its pivot in the parent's coordinates (body coordinates without a parent) and its shapes."""

    name: str
    shapes: Sequence[Shape]
    pivot: tuple[float, float] = (0.0, 0.0)
    parent: str | None = None
    motion: Motion = STILL


@dataclass(frozen=True)
class Body:
    """A toy, upright and looking to +x, its feet at y = 0, about 1 unit high (y points down).

    Attributes:
        parts: back to front. A parent may come after its child: order here is depth only.
        joints: JHMDB joint name -> (part, point in the part's coordinates); `near`/`far` stand for the sides.
        stride: units travelled in one gait cycle.
        tempo: gait cycles per second that run even on the spot.
        bob: rise and fall per step, units. rock: sway about the feet, radians.
        scale: a unit of this body, as a share of a person's height: long toys are lower.
        altitude: of its feet above the ground, units.
        speed: least and most, in body heights per second.
    """

    kind: str
    parts: tuple[Part, ...]
    stride: float = 1.0
    tempo: float = 0.0
    bob: float = 0.0
    rock: float = 0.0
    altitude: float = 0.0
    speed: tuple[float, float] = (0.1, 0.4)
    shadow: float = 0.4  # half-width of the shadow, units
    scale: float = 1.0
    joints: dict[str, tuple[str, tuple[float, float]]] = field(default_factory=dict)

    def pose(self, clocks: Clocks) -> dict[str, Array]:
        """(T, 3, 3) per part: from its coordinates to the body's."""
        by_name = {part.name: part for part in self.parts}
        done: dict[str, Array] = {}

        def place(part: Part) -> Array:
            if part.name not in done:
                own = shift(*part.pivot) @ part.motion.matrices(clocks)
                done[part.name] = own if part.parent is None else place(by_name[part.parent]) @ own
            return done[part.name]

        return {part.name: place(part) for part in self.parts}

    def sway(self, clocks: Clocks) -> Array:
        """(T, 3, 3) bob and rock of the whole body."""
        wave = np.sin(2 * np.pi * clocks.gait)
        return shift(np.zeros_like(wave), -self.bob * np.abs(wave)) @ rotation(self.rock * wave)


def rotation(angle: Array) -> Array:
    """(T, 3, 3) turns by `angle` (T,) radians, clockwise on screen."""
    out = np.zeros((*np.shape(angle), 3, 3))
    out[..., 0, 0] = out[..., 1, 1] = np.cos(angle)
    out[..., 1, 0] = np.sin(angle)
    out[..., 0, 1] = -out[..., 1, 0]
    out[..., 2, 2] = 1
    return out


def shift(x: Array | float, y: Array | float) -> Array:
    """(..., 3, 3) translations."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    out = np.zeros((*x.shape, 3, 3))
    out[..., 0, 0] = out[..., 1, 1] = out[..., 2, 2] = 1
    out[..., 0, 2], out[..., 1, 2] = x, y
    return out


def stretch(x: Array, y: Array) -> Array:
    """(T, 3, 3) scalings of the axes."""
    out = np.zeros((*x.shape, 3, 3))
    out[..., 0, 0], out[..., 1, 1], out[..., 2, 2] = x, y, 1
    return out
