"""Foreground from attention: the patches that the class token looks at (arXiv:2104.14294, figure 1; TimeT, Leopart)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_CELLS = 7  # side of the blur's kernel
BLUR_SIGMA_CELLS = 0.6


@torch.no_grad()
def foreground(attention: Tensor, grid: tuple[int, int], *, mass: float) -> Tensor:
    """Patches that hold most of the attention, without specks.

    The heads' mean is blurred, the fewest patches that hold `mass` of it are kept, and of these the ones that touch
    fewer than two others in one piece (8 neighbours) are dropped.

    Args:
        attention: (B, h, N) class attention of the last block over the patches, of any sum.
        grid: rows and columns of the N patches, 4 each at least (the blur reflects at the borders).
        mass: share of the attention to keep, 0 to 1.

    Returns:
        bool (B, N).
    """
    full = attention.to(torch.promote_types(attention.dtype, torch.float32))
    seen = blur(full.mean(dim=1).unflatten(-1, grid)).flatten(-2)
    values, order = seen.sort(dim=-1)
    below = values.cumsum(dim=-1) / values.sum(dim=-1, keepdim=True) > 1 - mass
    kept = torch.zeros_like(below).scatter(-1, order, below)
    return without_specks(kept.unflatten(-1, grid)).flatten(-2)


def blur(maps: Tensor) -> Tensor:
    """Gaussian blur of maps (B, rows, columns), reflected at the borders."""
    x = torch.arange(BLUR_CELLS, device=maps.device) - BLUR_CELLS // 2
    line = (-0.5 * (x / BLUR_SIGMA_CELLS) ** 2).exp()
    kernel = line[:, None] * line / line.sum() ** 2
    padded = F.pad(maps[:, None], (BLUR_CELLS // 2,) * 4, mode="reflect")
    return F.conv2d(padded, kernel[None, None].to(maps.dtype))[:, 0]


def without_specks(mask: Tensor) -> Tensor:
    """A mask (B, rows, columns) without its pieces of one or two cells.

    Count a cell and its neighbours in the mask. In a piece of three or more, every cell counts three, or touches one
    that does; in a smaller piece none counts more than two.
    """
    inside = mask[:, None].float()
    count = inside * F.conv2d(inside, inside.new_ones(1, 1, 3, 3), padding=1)
    return mask & (F.max_pool2d(count, 3, stride=1, padding=1)[:, 0] >= 3)
