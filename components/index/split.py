"""Train or held out: decided by each video for itself."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from components.common.clip_index import TRAIN, VAL
from components.common.errors import StageError


def split_videos(identity: list[str], val_share: float, seed: int) -> np.ndarray:
    """int8 (V,): TRAIN or VAL, from a hash of (seed, identity).

    A video keeps its side when others come or go, and two copies of one file fall on the same side.
    """
    split = np.full(len(identity), TRAIN, dtype=np.int8)
    for number, name in enumerate(identity):
        digest = _digest(seed, name)
        if int.from_bytes(digest[:8], "big") < val_share * 2**64:
            split[number] = VAL
    if len(split) and not (split == TRAIN).any():
        what = f"val_share = {val_share:g} holds out all {len(split)} videos of this small corpus"
        raise StageError(what, where="index.val_share", do="lower it, add videos or change the seed")
    return split


def split_exactly(identity: list[str], usable: np.ndarray, val_share: float, seed: int) -> np.ndarray:
    """int8 (V,): as `split_videos`, with floor((1 - val_share) n) of the n usable videos left to train on.

    The videos of the highest hashes are held out. A video may change sides when others come or go.

    Args:
        usable: bool (V,), videos that have frames; the others are left with TRAIN.
    """
    split = np.full(len(identity), TRAIN, dtype=np.int8)
    order = sorted(np.flatnonzero(usable).tolist(), key=lambda number: _digest(seed, identity[number]))
    kept = math.floor((1 - val_share) * len(order) + 1e-9)
    if not kept:
        what = f"val_share = {val_share:g} holds out all {len(order)} videos of this small corpus"
        raise StageError(what, where="index.val_share", do="lower it or add videos")
    split[order[kept:]] = VAL
    return split


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
