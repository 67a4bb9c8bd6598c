"""What happens in a shot: a camera's path and a cast of toys that come, cross and go.

Everything is a closed form of the time in seconds, so a shot has no frame rate and any instant can be asked for alone.
Lengths are in units of the frame height; x to the right, y down the ground sheet (a larger y is nearer to us).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from components.download.world.bodies import MAKERS
from components.download.world.bodies.person import GAITS, person
from components.download.world.body import Array, Body, Clocks, rotation, shift, stretch
from components.download.world.classes import NAMES
from components.download.world.config import WorldParams
from components.download.world.ground import EXTENT

Theme = Literal["mixed", "people"]  # people: one person leads and the camera follows (jhmdb, vip)
SPLITS = ("pretrain", "train", "val")
THEMES = ("mixed", "people")
ACTIONS = tuple(GAITS)

VISIT_S = 5.0  # about how long a toy stays in view while the camera moves on
LIFE_S = 12.0  # half of the time a toy exists for; at its ends it is LEAVE units from where it meets the camera
LEAVE = 4.0  # beyond the reach of the camera from anywhere on the sheet
TURN = 0.012  # speed (units/s) at which a toy has turned to look where it goes
THIN = 0.35  # least apparent width of a toy that turns: a cardboard figure is never seen edge-on
LEAD_SIZE = 0.6  # least size of a leading person
CALM = np.array([0.3, 1.0, 1.0])  # it sways less than the others
DEPTH = 0.7  # a unit up the sheet is this long on the ground, for feet that walk on it


@dataclass(frozen=True)
class Camera:
    """A path of slow sines over the sheet: it never leaves it and never ends."""

    swing: Array  # (2,) amplitude, units
    rate: Array  # (2,) radians per second
    phase: Array  # (2,)
    zoom: tuple[float, float, float]  # log amplitude, rate, phase
    roll: tuple[float, float, float]  # radians, rate, phase

    def centre(self, times: Array) -> Array:
        """(T, 2) where the camera looks."""
        return np.array(EXTENT) / 2 + self.swing * np.sin(self.rate * times[:, None] + self.phase)

    def matrices(self, times: Array, size_px: tuple[int, int], centre: Array | None = None) -> Array:
        """(T, 3, 3) from the sheet (units) to the frame (pixels, whole numbers at pixel centres)."""
        centre = self.centre(times) if centre is None else centre
        width, height = size_px
        scale = height * np.exp(_wave(self.zoom, times))
        place = shift((width - 1) / 2, (height - 1) / 2) @ rotation(_wave(self.roll, times))
        return place @ stretch(scale, scale) @ shift(-centre[:, 0], -centre[:, 1])


@dataclass(frozen=True)
class Light:
    """Slow changes of brightness and tint, as if clouds and evenings went by."""

    tint: Array  # (3,) BGR factors
    change: tuple[float, float, float]  # amplitude, rate, phase

    def gains(self, times: Array) -> Array:
        """(T, 3) factors of blue, green, red."""
        return self.tint * (1 + _wave(self.change, times))[:, None]


@dataclass(frozen=True)
class Actor:
    """A toy and its path. It meets the camera near `meets` (seconds) at `anchor`.

    `number` counts from 1 in a shot and is its value in the id buffer.
    """

    number: int
    kind: str
    key: tuple[int, ...]  # seeds its looks
    size: float  # units
    meets: float
    anchor: Array  # (2,)
    course: Array  # (2,) unit vector it leaves along
    speed: float  # units per second when it meets the camera
    wobble: Array  # (2, 3) amplitude, rate, phase for x and y
    action: str | None = None
    stays: bool = False  # a leading actor, with the camera for as long as the shot lasts

    @property
    def life(self) -> tuple[float, float]:
        life = math.inf if self.stays else LIFE_S
        return self.meets - life, self.meets + life

    @property
    def leave(self) -> float:
        """Factor of the cubic term that takes the toy away, units/s^3."""
        return 0.0 if self.stays else LEAVE / LIFE_S**3

    @property
    def body(self) -> Body:
        return _build(self.kind, self.key, self.action)

    def position(self, times: Array) -> Array:
        """(T, 2) on the sheet. The cubic term takes every toy out of sight before its life ends."""
        since = times - self.meets
        along = self.speed * since + self.leave * since**3
        amplitude, rate, phase = self.wobble.T
        swing = amplitude * (np.sin(rate * since[:, None] + phase) - np.sin(phase))
        return self.anchor + self.course * along[:, None] + swing

    def facing(self, times: Array) -> Array:
        """(T,) in -1..1: apparent width, negative when it looks to the left."""
        since = times - self.meets
        amplitude, rate, phase = self.wobble[0]
        along = self.speed + 3 * self.leave * since**2
        speed = self.course[0] * along + amplitude * rate * np.cos(rate * since + phase)
        turn = np.tanh(speed / TURN)
        return np.where(turn < 0, -1.0, 1.0) * np.maximum(np.abs(turn), THIN)

    def clocks(self, times: Array) -> Clocks:
        """What the joints follow: distance gone, in the toy's own size, and time."""
        x, y = self.position(times).T
        gone = (np.sign(self.course[0] or 1.0) * x + DEPTH * y) / self.size
        forward = x * np.sign(self.facing(times)) / self.size
        seconds = times + self.meets
        return Clocks(gone / self.body.stride + self.body.tempo * seconds, seconds, forward)

    def stand(self, times: Array) -> Array:
        """(T, 3, 3) from body coordinates to the sheet."""
        x, y = self.position(times).T
        upright = stretch(self.size * self.facing(times), np.full(len(times), self.size))
        return shift(x, y - self.size * self.body.altitude) @ upright @ self.body.sway(self.clocks(times))


@dataclass(frozen=True)
class Shot:
    """An uncut piece of a clip: [start, start + length) seconds of it; its own time begins at 0."""

    key: tuple[int, ...]
    camera: Camera
    light: Light
    actors: tuple[Actor, ...]
    length: float
    follows: Actor | None = None

    def view(self, times: Array, size_px: tuple[int, int]) -> Array:
        """(T, 3, 3) from the sheet to the frame; a leading actor is kept in the middle."""
        if self.follows is None:
            return self.camera.matrices(times, size_px)
        middle = self.follows.position(times) - (0.0, 0.5 * self.follows.size)
        return self.camera.matrices(times, size_px, middle + 0.12 * np.sin(self.camera.rate * times[:, None]))

    def alive(self, start: float, end: float) -> list[Actor]:
        """Actors whose life touches [start, end]."""
        return [actor for actor in self.actors if actor.life[0] < end and actor.life[1] > start]


@lru_cache(maxsize=256)  # more than are ever on stage, and bounded: an hour's clip has thousands of actors
def _build(kind: str, key: tuple[int, ...], action: str | None) -> Body:
    rng = np.random.default_rng((*key, 0))
    return person(rng, action) if kind == "person" else MAKERS[kind](rng)


def _wave(sine: tuple[float, float, float], times: Array) -> Array:
    amplitude, rate, phase = sine
    return amplitude * np.sin(rate * times + phase)


def make_shot(params: WorldParams, split: str, theme: Theme, clip: int, shot: int, length: float) -> Shot:
    """Draw a shot: a function of (seed, split, theme, clip, shot), the frame's proportions and the length."""
    key = (params.seed, SPLITS.index(split), THEMES.index(theme), clip, shot)
    rng = np.random.default_rng(key)
    camera, light = _camera(rng, params), _light(rng)
    least, most = params.objects
    at_once = least if theme == "people" else int(rng.integers(least, most + 1))
    count = max(at_once, round(at_once * length / VISIT_S))
    kinds = [NAMES[k] for k in rng.permutation(len(NAMES))]  # every kind once before any comes twice
    actors = [_actor(rng, params, key, camera, n, count, length) for n in range(count)]
    first = actors[0]
    actors = [_cast(actor, kinds[n % len(kinds)]) for n, actor in enumerate(actors)]
    if theme == "people":
        large = replace(first, size=max(first.size, LEAD_SIZE), wobble=first.wobble * CALM)
        actors[0] = _cast(large, "person", ACTIONS[clip % len(ACTIONS)])
        return Shot(key, camera, light, tuple(actors), length, actors[0])
    return Shot(key, camera, light, tuple(actors), length)


def _camera(rng: np.random.Generator, params: WorldParams) -> Camera:
    swing = np.array([rng.uniform(0.8, 1.1), rng.uniform(0.4, 0.75)])
    # the mean speed along a sine of amplitude a and rate w is 2 a w / pi
    rate = params.camera_units_per_s * math.pi / 2 / swing * rng.uniform(0.5, 1.2, 2)
    zoom = (rng.uniform(0.04, 0.16), rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi))
    roll = (rng.uniform(0.01, 0.07), rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi))
    return Camera(swing, rate, rng.uniform(0, 2 * np.pi, 2), zoom, roll)


def _light(rng: np.random.Generator) -> Light:
    warm = rng.uniform(-0.12, 0.12)
    level = rng.uniform(0.8, 1.08)
    tint = level * np.array([1 - warm, 1.0, 1 + warm])
    return Light(tint, (rng.uniform(0.03, 0.18), rng.uniform(0.3, 1.2), rng.uniform(0, 2 * np.pi)))


def _actor(
    rng: np.random.Generator,
    params: WorldParams,
    key: tuple[int, ...],
    camera: Camera,
    n: int,
    count: int,
    length: float,
) -> Actor:
    """The n-th of `count` actors, of no kind yet: they meet the camera one after the other."""
    aspect = params.width_px / params.height_px
    meets = (n + rng.random()) / count * length if n else 0.0  # a clip begins with a toy on stage
    offset = np.array([rng.uniform(-0.36, 0.36) * aspect, rng.uniform(-0.1, 0.45)])
    angle = rng.uniform(-0.5, 0.5)  # toys go mostly sideways, where they are seen best
    course = np.array([np.cos(angle) * rng.choice([-1.0, 1.0]), np.sin(angle)])
    wobble = np.array([[rng.uniform(0.0, 0.12), rng.uniform(0.5, 1.6), rng.uniform(0, 2 * np.pi)],
                       [rng.uniform(0.0, 0.05), rng.uniform(0.5, 1.6), rng.uniform(0, 2 * np.pi)]])  # fmt: skip
    anchor = camera.centre(np.array([meets]))[0] + offset
    size = rng.uniform(*params.object_size)
    return Actor(n + 1, "", (*key, n + 1), size, meets, anchor, course, rng.random(), wobble)


def _cast(actor: Actor, kind: str, lead_action: str | None = None) -> Actor:
    """Give an actor its kind: its size and its drawn share of speed become what they are for such a toy."""
    given = replace(actor, kind=kind, action=lead_action, stays=lead_action is not None)
    slow, fast = given.body.speed
    size = actor.size * given.body.scale
    return replace(given, size=size, speed=size * (slow + (fast - slow) * actor.speed))
