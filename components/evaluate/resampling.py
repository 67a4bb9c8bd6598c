"""Interpolation and pooling of feature maps as matrix products.

Equal to PyTorch's own in value and gradient. Its backward passes on a GPU add in an order that changes from run to run;
a product does not, so that a resumed training ends where an undisturbed one does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation (align_corners false) of (B, C, h, w) to (B, C, *size)."""
    if maps.shape[2:] == size:
        return maps
    return _apply(maps, [_bilinear(n, m) for n, m in zip(maps.shape[2:], size, strict=True)])


def pool(maps: Tensor, bins: int) -> Tensor:
    """Means over a grid of bins x bins cells of (B, C, h, w), as adaptive average pooling has them."""
    return _apply(maps, [_cells(n, bins) for n in maps.shape[2:]])


@torch.no_grad()
def upsampled_argmax(maps: Tensor, size: tuple[int, int], rows: int = 256) -> Tensor:
    """(H, W) numbers of the largest channel of (C, h, w) upsampled to `size`, `rows` rows in memory at a time."""
    down, across = (_bilinear(n, m).to(maps) for n, m in zip(maps.shape[1:], size, strict=True))
    wide = maps @ across
    return torch.cat([(strip.T @ wide).argmax(0) for strip in down.split(rows, dim=1)])


def _apply(maps: Tensor, weights: list[Tensor]) -> Tensor:
    down, across = (w.to(maps) for w in weights)
    return down.T @ maps @ across


def _bilinear(n: int, m: int) -> Tensor:
    """(n, m) weights of n samples in each of m interpolated ones."""
    return F.interpolate(torch.eye(n)[None], size=m, mode="linear", align_corners=False)[0]


def _cells(n: int, bins: int) -> Tensor:
    """(n, bins) weights of n samples in the mean of each cell: cell i spans floor(i n/bins) .. ceil((i+1) n/bins)."""
    weights = torch.zeros(n, bins)
    for i in range(bins):
        first, last = i * n // bins, -(-(i + 1) * n // bins)
        weights[first:last, i] = 1 / (last - first)
    return weights
