"""Objects without a detector: what the teacher's own features set apart in a view (LOST, Siméoni et al. 2021,
arXiv:2109.14279), carried to other views by geometry and to other frames by the likeness of patches.

Nothing in here learns. One object a sample: enough for one object token, and most pictures show LOST no second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from components.common.vit import tokens_and_attention
from components.pretrain.blocks.feature_forwarder import FeatureForwarder
from components.pretrain.blocks.numerics import full, no_autocast
from components.pretrain.blocks.self_distillation import tokens

EDGE = 1e-3  # of a patch: boxes that only touch a patch by rounding do not cover it


class Boxes(NamedTuple):
    """One object a sample.

    Attributes:
        corners: (B, 4), x0, y0, x1, y1 in pixels of the source frame.
        found: bool (B,); corners mean nothing where it is False.
    """

    corners: Tensor
    found: Tensor


@dataclass(frozen=True)
class TeacherObjects:
    """Finds one object a sample in its first large view, and in every other view of the batch.

    Attributes:
        area: least and largest share of the first large view that the object's box may cover.
        seed_share: see `lost`.
        margin: patches by which the box grows in each view.
    """

    area: tuple[float, float]
    seed_share: float
    margin: int

    @torch.no_grad()
    def __call__(self, backbone: Any, batch: dict[str, Tensor], groups: Sequence[str]) -> dict[str, Tensor]:
        """Patches of the object by crop group, bool (B, V, g, g).

        Costs a pass of the teacher over one large view, and one over a neighbour's.

        Args:
            backbone: the teacher's, of two blocks or more.
            batch: views (B, V, 1, 3, S, S) and their geometry; `neighbour` shows another frame than the others.
            groups: crop groups of the batch, `global` among them.
        """
        patch_px = backbone.patch_embed.patch_size[0]
        first, side = batch["global"][:, 0, 0], batch["global"].shape[-1] // patch_px
        every, _, _, keys = tokens_and_attention(backbone, first)
        mask = lost(keys, (side, side), self.seed_share)
        boxes = dict.fromkeys(groups, to_source(mask, batch["global_box"][:, 0, 0], self.area))
        if "neighbour" in groups:
            known = mask & boxes["global"].found[:, None, None]
            other = tokens(backbone, batch["neighbour"][:, 0, 0])[1]
            again = carry(every[:, backbone.num_prefix_tokens :], known, other, FeatureForwarder(side, context=0))
            boxes["neighbour"] = to_source(again, batch["neighbour_box"][:, 0, 0], self.area)
        return {
            name: in_views(boxes[name], batch[f"{name}_box"][:, :, 0], batch[name].shape[-1] // patch_px, self.margin)
            for name in groups
        }


@torch.no_grad()
def lost(keys: Tensor, grid: tuple[int, int], seed_share: float) -> Tensor:
    """The most conspicuous object of each view, bool (B, rows, columns).

    Patches of an object are like few others, those of the ground like many (section 3.2): the seed is the patch that
    correlates positively with the fewest. Of the patches of least degree, those like the seed join it; a patch belongs
    to the object if it correlates positively with them on the whole. The piece that holds the seed is the object.

    Unlike LOST, keys are taken relative to their mean over the view: the signs then tell patches apart even in a
    teacher that has learnt little, whose keys all point about the same way.

    Args:
        keys: (B, N, D) of the last block, heads concatenated.
        grid: rows and columns of the N patches.
        seed_share: patches of least degree that may join the seed, as a share of N (LOST: 100 of some 1,200).
    """
    with no_autocast(keys):
        centred = full(keys) - full(keys).mean(dim=1, keepdim=True)
        likeness = centred @ centred.mT  # (B, N, N)
        order = (likeness >= 0).sum(dim=-1).argsort(dim=-1, stable=True)  # least degree first
        candidates = order[:, : max(1, round(seed_share * order.shape[1]))]  # (B, k)
        seed = candidates[:, :1]  # (B, 1)
        joins = likeness.gather(1, seed[..., None].expand(-1, -1, likeness.shape[-1]))[:, 0].gather(1, candidates) >= 0
        rows = likeness.gather(1, candidates[..., None].expand(-1, -1, likeness.shape[-1]))  # (B, k, N)
        like_seeds = (rows * joins[..., None]).sum(dim=1) >= 0
    return piece(like_seeds.unflatten(-1, grid), seed[:, 0])


@torch.no_grad()
def carry(anchor: Tensor, objects: Tensor, other: Tensor, forwarder: FeatureForwarder) -> Tensor:
    """The object of an anchor view, found again in a view of another frame: bool (B, rows, columns), maybe empty.

    Args:
        anchor, other: the teacher's patch tokens (B, N, D) of both views.
        objects: bool (B, rows, columns) in the anchor view.
        forwarder: its radius should cover the view, since the two have boxes of their own.
    """
    grid = (objects.shape[-2], objects.shape[-1])
    labels = objects.flatten(1).to(full(anchor).dtype)
    share = forwarder(torch.stack([anchor, other], dim=1), labels[..., None], grid)[:, 1, :, 0]  # (B, N)
    return piece((share > 0.5).unflatten(-1, grid), share.argmax(dim=-1))


def piece(mask: Tensor, seed: Tensor) -> Tensor:
    """The 8-connected piece of a mask (B, rows, columns) that holds patch number `seed` (B,); empty if none does.

    Reachability by repeated squaring of the neighbourhood matrix: no loop over a length that the device would have to
    tell first.
    """
    grid, flat = (mask.shape[-2], mask.shape[-1]), mask.flatten(1)
    rows, columns = (torch.arange(n, device=mask.device) for n in grid)
    places = torch.cartesian_prod(rows, columns)
    touch = (places[:, None] - places[None]).abs().amax(dim=-1) <= 1  # (N, N), a patch touches itself
    reach = (touch & flat[:, :, None] & flat[:, None]).float()
    for _ in range((flat.shape[1] - 1).bit_length()):
        reach = (reach @ reach).clamp_max(1)
    found = reach.gather(1, seed[:, None, None].expand(-1, 1, flat.shape[1]))[:, 0] > 0
    return found.unflatten(-1, grid)


def to_source(mask: Tensor, view: Tensor, area: tuple[float, float]) -> Boxes:
    """Bounding boxes of masks (B, rows, columns) in the source frame.

    Args:
        view: (B, 5), the views' geometry: x0, y0, x1, y1 in pixels of the source frame, flip.
        area: least and largest share of the view's patches that the bounding box may cover; else nothing was found.
    """
    y0, y1 = _extent(mask.any(dim=2))
    x0, x1 = _extent(mask.any(dim=1))
    share = (x1 - x0) * (y1 - y0)
    found = mask.flatten(1).any(dim=1) & (share >= area[0]) & (share <= area[1])
    flip = view[:, 4] > 0.5
    x0, x1 = torch.where(flip, 1 - x1, x0), torch.where(flip, 1 - x0, x1)
    (left, top), (width, height) = view[:, :2].unbind(1), (view[:, 2:4] - view[:, :2]).unbind(1)
    corners = torch.stack([left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height], dim=1)
    return Boxes(corners, found)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of lines (B, n), in units of their length."""
    n = line.shape[1]
    first = line.float().argmax(dim=1)
    last = n - line.flip(1).float().argmax(dim=1)
    return first.float() / n, last.float() / n


def in_views(boxes: Boxes, views: Tensor, grid: int, margin: int) -> Tensor:
    """Patches that the boxes cover in other views of the same frame: bool (B, V, grid, grid).

    Args:
        views: (B, V, 5), the views' geometry in the source frame.
        grid: patches along the side of these views.
        margin: patches by which the covered rectangle grows on each side, where anything of it is in the view.
    """
    start, size = views[..., :2], views[..., 2:4] - views[..., :2]  # (B, V, 2)
    low = (boxes.corners[:, None, :2] - start) / size * grid
    high = (boxes.corners[:, None, 2:] - start) / size * grid
    flip = views[..., 4] > 0.5
    low_x, high_x = (
        torch.where(flip, grid - high[..., 0], low[..., 0]),
        torch.where(flip, grid - low[..., 0], high[..., 0]),
    )
    columns, rows = _covered(low_x, high_x, grid, margin), _covered(low[..., 1], high[..., 1], grid, margin)
    return rows[..., :, None] & columns[..., None, :] & boxes.found[:, None, None, None]


def _covered(low: Tensor, high: Tensor, grid: int, margin: int) -> Tensor:
    """Which of the cells 0 .. grid-1 an interval covers in part, grown by `margin` cells: bool (..., grid)."""
    cell = torch.arange(grid, device=low.device)
    inside = (cell < high[..., None] - EDGE) & (cell + 1 > low[..., None] + EDGE)
    if margin:
        grown = F.max_pool1d(inside.flatten(0, -2).float()[:, None], 2 * margin + 1, stride=1, padding=margin)
        inside = grown[:, 0].view_as(inside) > 0
    return inside
