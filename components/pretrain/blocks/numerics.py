"""Softmaxes are taken in full precision whatever the trainer's autocast does."""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which operations on the device of `x` keep their inputs' precision."""
    return torch.autocast(x.device.type, enabled=False)
