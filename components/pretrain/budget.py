"""What a run costs: floating-point operations, counted once on a copy before training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components.pretrain.method import Method, Now


def flops_per_sample(method: Method, batch: dict[str, Tensor], now: Now) -> int:
    """Multiply-adds times two of one sample's forward and backward pass (matrix products and attention).

    Works on a copy, since a forward pass may change a method's running state (DINO's centre).
    """
    one = {name: views[:1] for name, views in batch.items()}
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(method)(one, now).loss.backward()
    return int(counter.get_total_flops())
