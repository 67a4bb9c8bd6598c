"""Seeds of single draws, so that a resumed run draws what an undisturbed one would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def rng_of(*numbers: int) -> np.random.Generator:
    """The generator of one draw, named by numbers such as (seed, epoch, picture)."""
    return np.random.default_rng(numbers)


@contextmanager
def torch_seeded(device: str, *numbers: int) -> Iterator[None]:
    """torch's own draws (dropout, stochastic depth, starts) seeded by these numbers; its global state is put back."""
    import torch

    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    devices = [d if d.index is not None else torch.device("cuda", torch.cuda.current_device()) for d in devices]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
