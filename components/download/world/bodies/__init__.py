"""The twelve kinds of toys: each a function from a generator to a Body, its looks and size its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from components.download.world.bodies.fliers import aeroplane, bird
from components.download.world.bodies.person import person
from components.download.world.bodies.quadrupeds import cat, cow, dog, horse, sheep
from components.download.world.bodies.vehicles import boat, bus, car, train
from components.download.world.body import Body

MAKERS: dict[str, Callable[[np.random.Generator], Body]] = {
    "aeroplane": aeroplane,
    "bird": bird,
    "boat": boat,
    "bus": bus,
    "car": car,
    "cat": cat,
    "cow": cow,
    "dog": dog,
    "horse": horse,
    "person": person,
    "sheep": sheep,
    "train": train,
}
