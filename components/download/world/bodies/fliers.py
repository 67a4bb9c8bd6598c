"""What flies: bird and aeroplane. Their shadows stay on the ground below."""

from __future__ import annotations

import numpy as np

from components.download.world import texture
from components.download.world.body import Body, Motion, Part
from components.download.world.sprite import Shape, ellipse, polygon, smooth
from components.download.world.texture import Skin, hsv

DARK = Skin((28, 24, 24), mottle=0)


def bird(rng: np.random.Generator) -> Body:
    """A drop-shaped body, a fan tail, two flapping wings of barred feathers."""
    hue = rng.random()
    plumage = Skin(
        hsv(hue, rng.uniform(0.3, 0.9), rng.uniform(0.4, 0.95)), hsv(hue + 0.08, 0.5, 0.9), texture.dots, 0.09
    )
    feather = Skin(hsv(hue, 0.6, 0.75), hsv(hue, 0.5, 0.25), texture.bands, 0.12)
    beak = Skin(hsv(0.11, 0.9, 0.95))
    wing = smooth([(-0.16, 0.05), (0.2, 0.05), (0.12, -0.4), (-0.12, -0.62), (-0.3, -0.5), (-0.24, -0.2)])
    tail = smooth([(-0.35, -0.42), (-0.85, -0.5), (-0.88, -0.3), (-0.4, -0.32)], 1)
    beat = float(rng.uniform(1.4, 2.4))
    body = [
        Shape(smooth([(0.44, -0.5), (0.2, -0.58), (-0.3, -0.46), (-0.52, -0.38), (-0.2, -0.2), (0.3, -0.24)]), plumage),
        Shape(polygon((0.55, -0.54), (0.8, -0.46), (0.55, -0.42)), beak),
        Shape(ellipse(0.45, -0.5, 0.15, 0.14), plumage),
        Shape(ellipse(0.5, -0.53, 0.026, 0.03), DARK, flat=True),
    ]
    parts = (
        Part("far_wing", [Shape(wing, feather)], (0.06, -0.46), None, Motion("flap", 1.7, 0.04, 0.1, hz=beat)),
        Part("tail", [Shape(tail, feather)], (0.0, 0.0), None, Motion("swing", 0.06, hz=beat)),
        Part("body", body),
        Part("near_wing", [Shape(wing, feather)], (-0.02, -0.42), None, Motion("flap", 1.7, 0.0, 0.0, hz=beat)),
    )
    altitude = float(rng.uniform(0.2, 0.8))
    return Body("bird", parts, 2.0, 0.8, 0.05, 0.05, altitude, (0.3, 0.8), 0.4, 0.72)


def aeroplane(rng: np.random.Generator) -> Body:
    """Fuselage, tail fin, one wing towards us, a propeller seen from the side."""
    base, second = hsv(rng.random(), rng.uniform(0.0, 0.85), rng.uniform(0.6, 0.97)), hsv(rng.random(), 0.8, 0.8)
    metal = Skin(base, second, (texture.plain, texture.bands, texture.checks)[rng.integers(3)], 0.22, 0.06)
    trim = Skin(second, mottle=0.08)
    glass = Skin(hsv(0.55, 0.4, 0.9), mottle=0.02)
    hull = smooth([(1.0, -0.5), (0.7, -0.68), (-0.2, -0.66), (-1.05, -0.5), (-1.0, -0.4), (-0.2, -0.28), (0.75, -0.3)])
    body = [
        Shape(smooth([(-1.08, -0.46), (-1.18, -0.98), (-0.9, -0.98), (-0.62, -0.5)], 1), trim),
        Shape(smooth([(0.1, -0.6), (0.2, -0.82), (0.5, -0.8), (0.66, -0.6)]), glass),
        Shape(hull, metal),
        *[Shape(ellipse(x, -0.5, 0.05, 0.05), glass, flat=True) for x in (-0.5, -0.3, -0.1)],
        Shape(ellipse(1.0, -0.48, 0.07, 0.08), trim),
    ]
    wing = smooth([(0.3, -0.02), (-0.2, -0.02), (-0.5, 0.32), (-0.22, 0.34)], 1)
    propeller = smooth([(-0.02, -0.34), (0.04, -0.3), (0.02, 0), (0.04, 0.3), (-0.02, 0.34), (-0.01, 0)], 1)
    parts = (
        Part("body", body),
        Part("wing", [Shape(wing, trim)], (0.1, -0.42), None, Motion("flap", 0.25, hz=0.35)),
        Part("propeller", [Shape(propeller, DARK)], (1.06, -0.48), None, Motion("flap", 2.0, hz=2.7)),
    )
    altitude = float(rng.uniform(0.3, 0.9))
    return Body("aeroplane", parts, 3.0, 0.3, 0.03, 0.04, altitude, (0.4, 1.0), 0.8, 0.62)
