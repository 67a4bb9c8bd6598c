"""LOST: one object per picture from frozen patch features, without any training (arXiv:2109.14279).

The patch that is like the fewest others is taken for a part of an object (section 3.2). Patches of low degree that are
like it join it (3.3); what is like their sum is the object; the box is drawn around the piece that holds the seed.
Where the paper writes >= 0 for "is like", its released code has > 0 and leaves a patch's likeness to itself out of its
degree; so does this. Equal degrees are taken in reading order, which the released code leaves to the sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Found:
    """What LOST sees in one picture of h x w patches.

    Attributes:
        box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive, inside the picture.
        seed: row and column of the seed.
        degrees: (h, w), the number of other patches that each patch is like.
        mask: (h, w), the patches of the object.
    """

    box: Box
    seed: tuple[int, int]
    degrees: NDArray[np.int64]
    mask: NDArray[np.bool_]


def discover(features: Tensor, patch_px: int, size: tuple[int, int], k_patches: int) -> Found:
    """The most conspicuous object of one picture.

    Args:
        features: (h, w, D) of its patches, not normalised.
        patch_px: pixels between two patches.
        size: height and width of the picture, less than the grid's where it was padded.
        k_patches: patches of lowest degree among which the seed's companions are sought.
    """
    h, w = features.shape[:2]
    flat = features.flatten(0, 1).float()
    likeness = flat @ flat.T  # (N, N)
    like = likeness > 0
    degrees = like.sum(dim=1) - like.diagonal().long()
    lowest = degrees.argsort(stable=True)[:k_patches]
    seed = int(lowest[0])
    companions = lowest[like[seed, lowest]]
    object_or_not = likeness[companions].sum(dim=0) > 0
    object_or_not[seed] = True  # holds by itself unless the seed's feature is zero
    cell = (seed // w, seed % w)
    mask = piece_at(object_or_not.view(h, w).cpu().numpy(), cell)
    return Found(box_of(mask, patch_px, size), cell, degrees.view(h, w).cpu().numpy(), mask)


def piece_at(mask: NDArray[np.bool_], cell: tuple[int, int]) -> NDArray[np.bool_]:
    """The 4-connected piece of a mask that holds `cell`."""
    pieces, _ = ndimage.label(mask)
    return pieces == pieces[cell]


def box_of(mask: NDArray[np.bool_], patch_px: int, size: tuple[int, int]) -> Box:
    """The tight box of a patch mask in pixels, cut at the picture's right and lower edge."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        int(columns[0]) * patch_px,
        int(rows[0]) * patch_px,
        min((int(columns[-1]) + 1) * patch_px, size[1]),
        min((int(rows[-1]) + 1) * patch_px, size[0]),
    )
