"""Four vehicles: car, bus, train, boat."""

from __future__ import annotations

import numpy as np

from components.download.world import texture
from components.download.world.body import Body, Motion, Part
from components.download.world.sprite import Shape, box, ellipse, polygon, smooth
from components.download.world.texture import Colour, Skin, hsv

GLASS = Skin(hsv(0.55, 0.35, 0.85), hsv(0.57, 0.15, 0.98), texture.grain, 0.3, 0.02)
RUBBER = Skin((38, 36, 36), mottle=0.2)
STEEL = Skin((150, 150, 152), (95, 95, 100), texture.grain, 0.1)
LAMP = Skin((150, 235, 255), mottle=0)


def _wheel(name: str, x: float, radius: float, hub: Colour, spokes: int = 5) -> Part:
    """A wheel standing on the ground, with spokes that show its turning."""
    shapes = [
        Shape(ellipse(0, 0, radius, radius), RUBBER),
        Shape(ellipse(0, 0, 0.62 * radius, 0.62 * radius), Skin(hub)),
    ]
    for k in range(spokes):
        angle = 2 * np.pi * k / spokes
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        ends = [0.1 * along + 0.09 * across, 0.6 * along + 0.05 * across, 0.6 * along - 0.05 * across,
                0.1 * along - 0.09 * across]  # fmt: skip
        shapes.append(Shape(radius * np.array(ends), RUBBER, flat=True))
    return Part(name, shapes, (x, -radius), None, Motion("roll", radius))


def _paint(rng: np.random.Generator) -> Colour:
    return hsv(rng.random(), rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95))


def _window(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return Shape(polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1)), GLASS, flat=True)


def car(rng: np.random.Generator) -> Body:
    """A low rounded body with a cabin; some have a stripe or flames of a second colour."""
    pattern = (texture.plain, texture.plain, texture.bands, texture.patches)[rng.integers(4)]
    paint, hub = Skin(_paint(rng), _paint(rng), pattern, 0.3, 0.06), hsv(0, 0, rng.uniform(0.5, 0.9))
    roof = rng.uniform(-0.98, -0.86)
    hull = smooth([(-0.95, -0.22), (-0.98, -0.55), (-0.62, -0.62), (0.55, -0.60), (0.97, -0.48), (0.98, -0.2)])
    cabin = smooth([(-0.66, -0.52), (-0.48, roof), (0.12, roof), (0.5, -0.52)], 1)
    shapes = [
        Shape(cabin, paint),
        Shape(polygon((-0.52, -0.6), (-0.4, roof + 0.1), (-0.12, roof + 0.1), (-0.12, -0.6)), GLASS, flat=True),
        Shape(polygon((-0.06, -0.6), (-0.06, roof + 0.1), (0.08, roof + 0.1), (0.36, -0.6)), GLASS, flat=True),
        Shape(hull, paint),
        Shape(ellipse(0.9, -0.42, 0.06, 0.06), LAMP, flat=True),
        Shape(box(-0.99, -0.48, -0.9, -0.36), Skin((40, 40, 220)), flat=True),
        Shape(box(-0.25, -0.5, -0.12, -0.46), STEEL, flat=True),
    ]
    parts = (Part("hull", shapes), _wheel("rear", -0.58, 0.22, hub), _wheel("front", 0.58, 0.22, hub))
    return Body("car", parts, speed=(0.3, 0.9), bob=0.008, tempo=2.0, shadow=1.0, scale=0.62)


def bus(rng: np.random.Generator) -> Body:
    """A tall long box with a row of windows, a door and a coloured band."""
    colour = _paint(rng)
    band, hub = Skin(_paint(rng), mottle=0.05), hsv(0, 0, 0.75)
    shapes = [
        Shape(box(-1.12, -1.02, 1.12, -0.14), Skin(colour, mottle=0.06)),
        Shape(polygon((-1.08, -0.48), (1.08, -0.48), (1.08, -0.36), (-1.08, -0.36)), band, flat=True),
        *[_window(x, -0.88, x + 0.26, -0.56) for x in np.arange(-0.98, 0.5, 0.34)],
        _window(0.74, -0.9, 1.06, -0.5),
        Shape(polygon((0.5, -0.86), (0.68, -0.86), (0.68, -0.18), (0.5, -0.18)), GLASS, flat=True),
        Shape(ellipse(1.04, -0.28, 0.05, 0.05), LAMP, flat=True),
        Shape(box(-0.9, -1.06, 0.6, -0.97), Skin(colour, mottle=0.06)),
    ]
    parts = (Part("hull", shapes), _wheel("rear", -0.66, 0.19, hub, 4), _wheel("front", 0.76, 0.19, hub, 4))
    return Body("bus", parts, speed=(0.15, 0.5), bob=0.006, tempo=1.5, shadow=1.15, scale=0.72)


def train(rng: np.random.Generator) -> Body:
    """A steam engine: boiler, chimney, cab, four wheels, a coupling rod that goes round with them."""
    colour, trim = _paint(rng), Skin(_paint(rng), mottle=0.05)
    boiler = Skin(colour, tuple(0.75 * c for c in colour), texture.bands, 0.25, 0.06)  # type: ignore[arg-type]
    iron = Skin((52, 48, 46), mottle=0.15)
    shapes = [
        Shape(polygon((-1.0, -0.26), (1.05, -0.26), (1.2, -0.1), (1.05, -0.38), (-1.0, -0.38)), iron),
        Shape(smooth([(0.52, -0.7), (0.46, -1.06), (0.82, -1.06), (0.74, -0.7)], 1), iron),
        Shape(ellipse(0.1, -0.78, 0.12, 0.14), trim),
        Shape(box(-0.5, -0.8, 1.02, -0.34), boiler),
        Shape(ellipse(0.98, -0.57, 0.08, 0.21), iron),
        Shape(polygon((-1.0, -0.36), (-1.0, -0.98), (-0.38, -0.98), (-0.38, -0.36)), trim),
        _window(-0.88, -0.88, -0.5, -0.62),
        Shape(box(-1.08, -1.06, -0.3, -0.95), iron),
        Shape(ellipse(1.0, -0.84, 0.055, 0.055), LAMP, flat=True),
    ]
    wheels = [_wheel(f"wheel_{k}", x, 0.2, trim.low, 6) for k, x in enumerate((-0.72, -0.22, 0.28, 0.78))]
    rod = Part(
        "rod", [Shape(box(-0.76, -0.035, 0.82, 0.035), STEEL)], (0.0, -0.2), None, Motion("crank", 0.1, rest=0.2)
    )
    return Body(
        "train", (Part("hull", shapes), *wheels, rod), speed=(0.2, 0.6), bob=0.005, tempo=1.0, shadow=1.1, scale=0.66
    )


def boat(rng: np.random.Generator) -> Body:
    """A planked hull with two sails that sway, a waving pennant; the whole rocks."""
    wood = Skin(hsv(0.07, 0.6, rng.uniform(0.35, 0.75)), hsv(0.06, 0.6, 0.25), texture.grain, 0.08)
    if rng.random() < 0.5:
        wood = Skin(_paint(rng), hsv(0, 0, 0.95), texture.bands, 0.16)
    cloth = (texture.plain, texture.bands, texture.checks)[rng.integers(3)]
    sail = Skin(hsv(0.1, 0.06, 0.95), _paint(rng), cloth, 0.16, 0.06)
    hull = smooth([(-0.52, -0.28), (0.62, -0.3), (0.42, 0.0), (-0.4, 0.0)], 1)
    main = smooth([(-0.03, -1.02), (-0.03, -0.34), (-0.5, -0.34), (-0.38, -0.6)], 1)
    jib = smooth([(0.04, -0.98), (0.54, -0.36), (0.3, -0.36), (0.04, -0.36)], 1)
    mast = Shape(polygon((-0.02, -1.1), (0.02, -1.1), (0.02, -0.2), (-0.02, -0.2)), Skin(hsv(0.07, 0.5, 0.4)))
    flag = Shape(smooth([(0, -0.03), (-0.24, 0.0), (0, 0.05)], 1), Skin(_paint(rng)))
    parts = (
        Part("pennant", [flag], (0.0, -1.06), None, Motion("swing", 0.3, hz=1.7)),
        Part("jib", [Shape(jib, sail)], (0.0, 0.0), None, Motion("swing", 0.03, 0.3, hz=0.4)),
        Part("main", [Shape(main, sail)], (0.0, 0.0), None, Motion("swing", 0.03, 0.0, hz=0.4)),
        Part("mast", [mast]),
        Part("hull", [Shape(hull, wood)]),
    )
    return Body("boat", parts, tempo=0.45, stride=3.0, rock=0.09, bob=0.01, speed=(0.08, 0.3), shadow=0.55, scale=0.95)
