"""Five animals on four legs: one plan, five sets of proportions and coats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.download.world import texture
from components.download.world.body import Body, Motion, Part
from components.download.world.sprite import Outline, Shape, ellipse, limb, smooth
from components.download.world.texture import Skin, hsv

DARK = Skin((28, 24, 24), mottle=0)


@dataclass(frozen=True)
class Build:
    """Proportions in units of the toy's height, and its coats."""

    leg: float  # length of a whole leg
    length: float  # of the trunk
    depth: float  # of the trunk
    thick: float  # radius at the top of a leg
    neck: tuple[float, float, float]  # length, radius, angle from upright to the front
    head: tuple[float, float]  # half-length, half-height of the skull
    muzzle: tuple[float, float]  # half-length, half-height of the snout
    tail: tuple[float, float, float]  # length, radius, angle at rest
    coat: Skin
    legs: Skin
    face: Skin


def _animal(
    kind: str,
    build: Build,
    extras: list[Shape],
    *,
    trunk: Outline | None = None,
    stride: float = 0.8,
    speed: tuple[float, float] = (0.15, 0.4),
    scale: float = 0.95,
    neck_shapes: tuple[Shape, ...] = (),
    trunk_shapes: tuple[Shape, ...] = (),
    tail_shapes: tuple[Shape, ...] = (),
) -> Body:
    """Put an animal together. `extras` are the head's ears, horns and eyes, about the head's middle."""
    half, top = build.length / 2, -build.leg - build.depth / 2
    outline = trunk if trunk is not None else _trunk(half, top, build.depth)
    length, radius, angle = build.neck
    head = [
        Shape(ellipse(0, 0, *build.head), build.face),
        Shape(ellipse(build.head[0] * 0.95, 0.03, *build.muzzle), build.face),
        Shape(ellipse(build.head[0] * 0.95 + build.muzzle[0] * 0.8, 0.015, 0.025, 0.02), DARK, flat=True),
        Shape(ellipse(build.head[0] * 0.35, -0.03, 0.02, 0.024), DARK, flat=True),
    ]
    ears_first = [*extras[:1], *head, *extras[1:]]  # the far ear lies behind the skull
    neck = Motion("swing", 0.07, 0.2, angle - np.pi)
    tail = Motion("swing", 0.35, 0.0, build.tail[2], hz=1.3)
    parts = (
        *_leg("far_fore", build, 0.72 * half, 0.55),
        *_leg("far_hind", build, -0.75 * half, 0.05),
        Part("tail", [Shape(limb(build.tail[0], build.tail[1], build.tail[1] * 0.6), build.coat), *tail_shapes],
             (-half * 0.93, top - 0.12 * build.depth), None, tail),
        Part("neck", [Shape(limb(length, radius * 1.25, radius), build.coat), *neck_shapes],
             (half * 0.78, top - 0.05 * build.depth), None, neck),
        Part("trunk", [Shape(outline, build.coat), *trunk_shapes]),
        Part("head", ears_first, (0.0, length), "neck", Motion("swing", 0.08, 0.45, np.pi - angle + 0.15)),
        *_leg("near_fore", build, 0.62 * half, 0.05),
        *_leg("near_hind", build, -0.65 * half, 0.55),
    )  # fmt: skip
    return Body(kind, parts, stride, 0.05, 0.012, 0.0, 0.0, speed, half * 1.1, scale)


def _trunk(half: float, middle: float, depth: float) -> Outline:
    d = depth / 2
    return smooth(
        [(-half, middle - 0.7 * d), (-0.3 * half, middle - d), (0.6 * half, middle - d), (half, middle - 0.6 * d),
         (half, middle + 0.4 * d), (0.3 * half, middle + d), (-0.6 * half, middle + 0.8 * d), (-half, middle + 0.5 * d)]
    )  # fmt: skip


def _leg(name: str, build: Build, x: float, offset: float) -> list[Part]:
    upper, lower = 0.55 * build.leg + 0.1, 0.45 * build.leg
    hoof = Shape(ellipse(0.015, lower, build.thick * 0.8, build.thick * 0.45), DARK)
    shin = [Shape(limb(lower, build.thick * 0.68, build.thick * 0.5), build.legs), hoof]
    return [
        Part(f"{name}_shin", shin, (0.0, upper), f"{name}_thigh", Motion("bend", 0.8, offset + 0.25, 0.0)),
        Part(f"{name}_thigh", [Shape(limb(upper, build.thick * 1.15, build.thick * 0.7), build.legs)],
             (x, -build.leg - 0.1), None, Motion("swing", 0.42, offset)),
    ]  # fmt: skip


def _ears(outline: Outline, skin: Skin, shift: float = 0.05) -> list[Shape]:
    return [Shape(np.add(outline, (shift, 0)), skin), Shape(outline, skin)]


def _shade(skin: Skin, factor: float) -> Skin:
    low, high = (tuple(factor * c for c in colour) for colour in (skin.low, skin.high))
    return Skin(low, high, skin.pattern, skin.motif, skin.mottle)  # type: ignore[arg-type]


def dog(rng: np.random.Generator) -> Body:
    """Floppy ears, long snout, a wagging tail held high; patches of brown, black or white."""
    coat = Skin(
        hsv(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.75), rng.uniform(0.45, 0.95)),
        hsv(rng.uniform(0.03, 0.08), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.4)),
        texture.patches,
        0.35,
    )
    ear = _shade(coat, 0.55)
    build = Build(0.40, 0.78, 0.30, 0.06, (0.24, 0.1, 0.65), (0.15, 0.125), (0.12, 0.07), (0.34, 0.04, 2.5),
                  coat, coat, coat)  # fmt: skip
    return _animal("dog", build, _ears(ellipse(-0.08, 0.02, 0.055, 0.13, tilt=0.25), ear), speed=(0.2, 0.5), scale=0.85)


def cat(rng: np.random.Generator) -> Body:
    """Pointed ears, round head, tabby stripes, a long curling tail."""
    hue = rng.uniform(0.05, 0.12)
    coat = Skin(
        hsv(hue, rng.uniform(0.05, 0.7), rng.uniform(0.6, 0.95)),
        hsv(hue, rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.45)),
        texture.stripes,
        0.1,
    )
    ear = smooth([(-0.12, -0.06), (-0.10, -0.25), (0.02, -0.10)], 1)
    build = Build(0.32, 0.72, 0.26, 0.052, (0.16, 0.09, 0.7), (0.15, 0.14), (0.06, 0.055), (0.55, 0.035, 2.3),
                  coat, coat, coat)  # fmt: skip
    tip = Shape(smooth([(-0.04, 0.5), (0.03, 0.5), (0.16, 0.62), (0.13, 0.68), (-0.02, 0.6)]), coat)
    return _animal("cat", build, _ears(ear, coat, 0.13), stride=0.6, speed=(0.1, 0.4), scale=0.8, tail_shapes=(tip,))


def horse(rng: np.random.Generator) -> Body:
    """Long legs, long neck with a mane, long tail."""
    hue, value = rng.uniform(0.02, 0.09), rng.uniform(0.3, 0.85)
    coat = Skin(hsv(hue, 0.65, value), hsv(hue, 0.5, 0.8 * value), texture.grain, 0.2)
    mane_colour = hsv(hue, 0.4, 0.2 if rng.random() < 0.6 else 0.9)
    mane = Skin(mane_colour, tuple(0.5 * c for c in mane_colour), texture.grain, 0.08)  # type: ignore[arg-type]
    crest = Shape(smooth([(0.05, -0.02), (0.13, 0.05), (0.12, 0.42), (0.04, 0.44)]), mane)
    tail = Shape(smooth([(-0.05, 0), (0.05, 0), (0.09, 0.4), (0.0, 0.46), (-0.07, 0.35)]), mane)
    build = Build(0.46, 0.68, 0.28, 0.055, (0.40, 0.09, 0.62), (0.14, 0.085), (0.11, 0.062), (0.42, 0.03, 0.35),
                  coat, _shade(coat, 0.8), coat)  # fmt: skip
    ear = smooth([(-0.11, -0.04), (-0.09, -0.18), (-0.03, -0.06)], 1)
    return _animal("horse", build, _ears(ear, coat, 0.04), stride=1.1, speed=(0.25, 0.6),
                   neck_shapes=(crest,), tail_shapes=(tail,))  # fmt: skip


def sheep(rng: np.random.Generator) -> Body:
    """A cloud of curls on dark thin legs."""
    warm = rng.uniform(0.75, 1.0)
    fleece = Skin(hsv(0.12, 0.25, 0.62 * warm), hsv(0.12, 0.08, warm), texture.wool, 0.12, 0.1)
    face = Skin(hsv(0.08, 0.3, rng.uniform(0.12, 0.8)))
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    puff = 1 + 0.06 * np.abs(np.sin(6 * angle))  # a scalloped outline
    cloud = np.stack([0.46 * puff * np.cos(angle), -0.56 + 0.29 * puff * np.sin(angle)], axis=1)
    build = Build(0.32, 0.80, 0.46, 0.042, (0.16, 0.1, 0.95), (0.13, 0.1), (0.08, 0.065), (0.12, 0.06, 0.5),
                  fleece, face, face)  # fmt: skip
    curls = Shape(ellipse(-0.05, -0.08, 0.1, 0.06), fleece)
    ears = _ears(ellipse(-0.07, 0.01, 0.09, 0.035, tilt=0.5), face)
    return _animal("sheep", build, [*ears, curls], trunk=cloud, stride=0.6, speed=(0.05, 0.2))


def cow(rng: np.random.Generator) -> Body:
    """A heavy trunk with large patches, horns, a pink udder and muzzle, a tasselled tail."""
    dark = hsv(rng.uniform(0.03, 0.08), rng.uniform(0, 0.8), rng.uniform(0.1, 0.45))
    light = hsv(0.1, 0.08, rng.uniform(0.8, 0.97))
    coat = Skin(light, dark, texture.patches, float(rng.uniform(0.3, 0.5)), 0.08)
    pink, horn = Skin(hsv(0.98, 0.3, 0.9)), Skin(hsv(0.12, 0.2, 0.85))
    build = Build(0.36, 0.90, 0.42, 0.06, (0.20, 0.13, 0.9), (0.14, 0.115), (0.1, 0.085), (0.46, 0.022, 0.25),
                  coat, Skin(light), coat)  # fmt: skip
    horns = _ears(smooth([(-0.05, -0.08), (-0.09, -0.2), (-0.03, -0.26), (0.0, -0.09)], 1), horn, 0.08)
    snout = Shape(ellipse(0.20, 0.045, 0.055, 0.07), pink, flat=True)
    tassel = Shape(ellipse(0, 0.48, 0.045, 0.08), Skin(dark))
    udder = Shape(ellipse(-0.2, -0.36, 0.1, 0.07), pink)
    return _animal("cow", build, [*horns, snout], stride=0.8, speed=(0.05, 0.2),
                   trunk_shapes=(udder,), tail_shapes=(tassel,))  # fmt: skip
