"""Train or held out: decided by each video for itself."""

from __future__ import annotations

import hashlib

import numpy as np

from components.common.clip_index import TRAIN, VAL
from components.common.errors import StageError


def split_videos(identity: list[str], val_share: float, seed: int) -> np.ndarray:
    """int8 (V,): TRAIN or VAL, from a hash of (seed, identity).

    A video keeps its side when others come or go, and two copies of one file fall on the same side.
    """
    split = np.full(len(identity), TRAIN, dtype=np.int8)
    for number, name in enumerate(identity):
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        if int.from_bytes(digest[:8], "big") < val_share * 2**64:
            split[number] = VAL
    if len(split) and not (split == TRAIN).any():
        what = f"val_share = {val_share:g} holds out all {len(split)} videos of this small corpus"
        raise StageError(what, where="index.val_share", do="lower it, add videos or change the seed")
    return split
