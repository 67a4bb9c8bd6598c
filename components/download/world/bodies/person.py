"""The person: 15 JHMDB joints, VIP's parts, five ways to move, many ways to dress."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.download.world import texture
from components.download.world.body import Body, Motion, Part
from components.download.world.classes import PART
from components.download.world.sprite import Shape, box, ellipse, limb, smooth
from components.download.world.texture import Colour, Skin, hsv

# Lengths, as shares of the standing height.
SHOULDER_Y, HIP_Y, NECK_Y, BELLY_Y, FACE_Y = -0.77, -0.47, -0.80, -0.58, -0.90
THIGH, SHIN, UPPER_ARM, FOREARM = 0.22, 0.22, 0.16, 0.15

# (thigh swing, knee bend, arm swing, arm rest, elbow bend, tempo, stride, bob): radians, cycles/s, heights, heights
GAITS = {
    "walk": (0.45, 0.7, 0.45, 0.0, 0.25, 0.0, 0.85, 0.015),
    "run": (0.75, 1.3, 0.80, 0.0, 1.1, 0.0, 1.5, 0.05),
    "jump": (0.25, 0.9, 0.90, -1.8, 0.3, 1.1, 4.0, 0.16),
    "wave": (0.06, 0.1, 0.45, -2.5, 0.8, 0.9, 4.0, 0.0),
    "clap": (0.06, 0.1, 0.50, -1.3, 0.7, 1.3, 4.0, 0.0),
}
IN_STEP = {"jump", "wave", "clap"}  # both sides move together
SKIN_TONES = (hsv(0.07, 0.30, 0.96), hsv(0.07, 0.45, 0.82), hsv(0.06, 0.55, 0.60), hsv(0.06, 0.60, 0.40))
HAIR = (hsv(0.08, 0.7, 0.25), hsv(0.12, 0.6, 0.85), hsv(0.04, 0.75, 0.55), hsv(0, 0, 0.12), hsv(0, 0, 0.7))


@dataclass(frozen=True)
class Wardrobe:
    """What this person wears. `top` and `legs` name VIP parts."""

    tone: Skin
    hair: Skin
    cloth: Skin
    lower: Skin
    shoe: Skin
    extra: Colour
    top: str
    legs: str
    long_sleeves: bool
    hat: bool
    scarf: bool
    gloves: bool
    glasses: bool


def person(rng: np.random.Generator, action: str | None = None) -> Body:
    """A person who walks, runs, jumps, waves or claps (JHMDB's names); drawn at random without `action`."""
    action = action or str(rng.choice(list(GAITS), p=[0.5, 0.2, 0.1, 0.1, 0.1]))
    thigh, knee, arm, arm_rest, elbow, tempo, stride, bob = GAITS[action]
    wear = _dress(rng)
    parts = [
        *_arm("far", wear, Motion("swing", arm, _far(action), arm_rest), Motion("bend", -elbow, _far(action), -0.15)),
        *_leg("far", wear, Motion("swing", thigh, 0.5, 0), Motion("bend", knee, 0.75, 0.05)),
        *_leg("near", wear, Motion("swing", thigh, 0.0, 0), Motion("bend", knee, 0.25, 0.05)),
        Part("torso", _torso(wear)),
        Part("head", _head(wear), (0.0, NECK_Y), None, Motion("swing", 0.09, 0.1, 0.0)),
        *_arm("near", wear, Motion("swing", arm, 0.5, arm_rest), Motion("bend", -elbow, 0.5, -0.15)),
    ]
    speed = {"walk": (0.15, 0.3), "run": (0.4, 0.7)}.get(action, (0.0, 0.04))
    return Body("person", tuple(parts), stride, tempo, bob, 0.0, 0.0, speed, 0.2, 1.0, _joints())


def _far(action: str) -> float:
    return 0.5 if action in IN_STEP else 0.0


def _joints() -> dict[str, tuple[str, tuple[float, float]]]:
    joints = {"neck": ("torso", (0.0, NECK_Y)), "belly": ("torso", (0.0, BELLY_Y)), "face": ("head", (0.03, -0.10))}
    for side in ("near", "far"):
        joints |= {
            f"{side}_shoulder": (f"{side}_arm", (0.0, 0.0)),
            f"{side}_elbow": (f"{side}_forearm", (0.0, 0.0)),
            f"{side}_wrist": (f"{side}_forearm", (0.0, FOREARM - 0.02)),
            f"{side}_hip": (f"{side}_thigh", (0.0, 0.0)),
            f"{side}_knee": (f"{side}_shin", (0.0, 0.0)),
            f"{side}_ankle": (f"{side}_shin", (0.0, SHIN - 0.02)),
        }
    return joints


def _dress(rng: np.random.Generator) -> Wardrobe:
    patterns = (texture.plain, texture.bands, texture.checks, texture.dots, texture.patches)
    cloth = Skin(
        hsv(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.45, 0.95)),
        hsv(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.5, 1)),
        patterns[rng.integers(len(patterns))],
        float(rng.uniform(0.05, 0.1)),
    )
    lower = Skin(hsv(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.7)), pattern=texture.plain)
    tone = SKIN_TONES[rng.integers(len(SKIN_TONES))]
    hair = HAIR[rng.integers(len(HAIR))]
    top = str(rng.choice(["upper-clothes", "coat", "dress"], p=[0.6, 0.2, 0.2]))
    legs = "dress" if top == "dress" else str(rng.choice(["pants", "skirt"], p=[0.75, 0.25]))
    hat, scarf, gloves, glasses = (rng.random(4) < (0.35, 0.2, 0.2, 0.25)).tolist()
    return Wardrobe(
        tone=Skin(tone, mottle=0.05),
        hair=Skin(hair, tuple(0.6 * c for c in hair), texture.grain, 0.05),  # type: ignore[arg-type]
        cloth=cloth,
        lower=cloth if legs == "dress" else lower,
        shoe=Skin(hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.6))),
        extra=hsv(rng.random(), 0.8, 0.8),
        top=top,
        legs=legs,
        long_sleeves=bool(top == "coat" or rng.random() < 0.5),
        hat=hat,
        scarf=scarf,
        gloves=gloves,
        glasses=glasses,
    )


def _side(name: str, side: str) -> int:
    """VIP label of a limb. Seen looking to +x the near side is the right one; the renderer swaps them after a turn."""
    return PART[f"{'right' if side == 'near' else 'left'}-{name}"]


def _arm(side: str, wear: Wardrobe, shoulder: Motion, elbow: Motion) -> list[Part]:
    skin = _side("arm", side)
    sleeve = Shape(limb(UPPER_ARM, 0.048, 0.042), wear.cloth, PART[wear.top])
    lower = (wear.cloth, PART[wear.top]) if wear.long_sleeves else (wear.tone, skin)
    hand = (Skin(wear.extra), PART["gloves"]) if wear.gloves else (wear.tone, skin)
    forearm = [Shape(limb(FOREARM, 0.038, 0.03), *lower), Shape(ellipse(0, FOREARM + 0.01, 0.036, 0.04), *hand)]
    x = -0.01 if side == "near" else 0.02
    return [
        Part(f"{side}_forearm", forearm, (0.0, UPPER_ARM), f"{side}_arm", elbow),
        Part(f"{side}_arm", [sleeve], (x, SHOULDER_Y + 0.03), None, shoulder),
    ]


def _leg(side: str, wear: Wardrobe, hip: Motion, knee: Motion) -> list[Part]:
    bare = wear.legs != "pants"
    surface = (wear.tone, _side("leg", side)) if bare else (wear.lower, PART["pants"])
    shoe = smooth([(-0.045, SHIN - 0.025), (0.05, SHIN - 0.015), (0.105, SHIN + 0.03), (-0.045, SHIN + 0.03)])
    shin = [Shape(limb(SHIN, 0.045, 0.034), *surface)]
    if bare:
        shin.append(Shape(box(-0.042, SHIN - 0.08, 0.042, SHIN), Skin(wear.extra), PART["socks"]))
    shin.append(Shape(shoe, wear.shoe, _side("shoe", side)))
    x = -0.012 if side == "near" else 0.015
    return [
        Part(f"{side}_shin", shin, (0.0, THIGH), f"{side}_thigh", knee),
        Part(f"{side}_thigh", [Shape(limb(THIGH, 0.062, 0.05), *surface)], (x, HIP_Y), None, hip),
    ]


def _torso(wear: Wardrobe) -> list[Shape]:
    trunk = smooth([(-0.07, -0.80), (0.06, -0.80), (0.085, -0.70), (0.07, -0.44), (-0.075, -0.44), (-0.085, -0.70)])
    shapes = [
        Shape(box(-0.035, -0.86, 0.035, -0.76), wear.tone, PART["torso-skin"]),
        Shape(trunk, wear.cloth, PART[wear.top]),
    ]
    if wear.legs != "pants":
        hem = smooth([(-0.07, -0.56), (0.07, -0.56), (0.15, -0.27), (-0.15, -0.27)], 1)
        shapes.append(Shape(hem, wear.lower, PART[wear.legs]))
    elif wear.top == "coat":
        shapes.append(
            Shape(smooth([(-0.08, -0.6), (0.07, -0.6), (0.1, -0.36), (-0.11, -0.36)], 1), wear.cloth, PART["coat"])
        )
    if wear.scarf:
        shapes.append(Shape(ellipse(0.0, -0.795, 0.075, 0.033), Skin(wear.extra), PART["scarf"]))
        shapes.append(Shape(box(0.02, -0.79, 0.07, -0.62), Skin(wear.extra), PART["scarf"]))
    return shapes


def _head(wear: Wardrobe) -> list[Shape]:
    """About the neck: the face looks to +x."""
    dark = Skin((30, 25, 25), mottle=0)
    shapes = [
        Shape(ellipse(-0.02, -0.10, 0.085, 0.10), wear.hair, PART["hair"]),
        Shape(ellipse(0.02, -0.085, 0.068, 0.085), wear.tone, PART["face"]),
        Shape(
            smooth([(-0.095, -0.10), (-0.07, -0.2), (0.06, -0.2), (0.08, -0.14), (0, -0.13)]), wear.hair, PART["hair"]
        ),
        Shape(ellipse(0.055, -0.10, 0.009, 0.012), dark, PART["face"], flat=True),
        Shape(ellipse(0.06, -0.045, 0.02, 0.006), Skin((60, 60, 170)), PART["face"], flat=True),
    ]
    if wear.glasses:
        shapes.append(Shape(ellipse(0.055, -0.10, 0.032, 0.022), dark, PART["sun-glasses"], flat=True))
        shapes.append(Shape(box(-0.04, -0.107, 0.05, -0.093), dark, PART["sun-glasses"], flat=True))
    if wear.hat:
        crown = smooth([(-0.085, -0.145), (-0.07, -0.25), (0.06, -0.25), (0.075, -0.145)], 1)
        shapes.append(Shape(crown, Skin(wear.extra), PART["hat"]))
        shapes.append(Shape(box(-0.12, -0.16, 0.13, -0.13), Skin(wear.extra), PART["hat"]))
    return shapes
