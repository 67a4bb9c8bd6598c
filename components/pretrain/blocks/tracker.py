"""DoRA's tracker: objects found by the teacher's attention in the first frame, followed by its keys in every frame.

Nothing in here learns; all inputs come from the teacher (arXiv:2310.08584, section 3 and figure 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from components.pretrain.blocks.numerics import full, no_autocast
from components.pretrain.blocks.sinkhorn import sinkhorn

Threshold = Literal["map", "batch"]


@dataclass(frozen=True)
class TeacherView:
    """What the teacher knows of a clip: B clips, T frames, N patches, h heads.

    Attributes:
        patches: (B, T, N, D) after the final norm.
        cls_attention: (B, T, h, N) of the last block, the class column dropped, not renormalised.
        queries, keys: (B, T, N, D) of the last block, heads concatenated, unscaled.
    """

    patches: Tensor
    cls_attention: Tensor
    queries: Tensor
    keys: Tensor


def draw_heads(n_heads: int, k: int, generator: torch.Generator) -> Tensor:
    """k different heads, the same for equal states of `generator`, which is left as it is.

    So every micro-batch and every process of a step draws the same ones.
    """
    twin = torch.Generator().set_state(generator.get_state())
    return torch.randperm(n_heads, generator=twin)[:k]


@torch.no_grad()
def track(view: TeacherView, heads: Tensor, *, epsilon: float, n_iterations: int, threshold: Threshold) -> Tensor:
    """Masks (k, B, T, N) of the k objects that `heads` look at; True where an object is."""
    with no_autocast(view.patches):
        prototypes = object_prototypes(view, heads, epsilon, n_iterations)
        return binarise(object_attention(prototypes, full(view.keys)), threshold)


def object_prototypes(view: TeacherView, heads: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    """Refined prototypes (B, k, D) of the anchor frame 0.

    A head's attention pools the queries to one prototype; Sinkhorn makes the prototypes share the patches out
    between them; each is then the sum (not the mean) of its normalised patches.
    """
    attention, queries = full(view.cls_attention[:, 0]), full(view.queries[:, 0])
    rough = attention[:, heads.to(attention.device)] @ queries  # (B, k, D)
    patches = F.normalize(full(view.patches[:, 0]), dim=-1)  # (B, N, D)
    assignment = sinkhorn(patches @ rough.transpose(1, 2), epsilon=epsilon, n_iterations=n_iterations)  # (B, N, k)
    return assignment.transpose(1, 2) @ patches


def object_attention(prototypes: Tensor, keys: Tensor) -> Tensor:
    """Cross-attention (k, B, T, N) of prototypes (B, k, D) over the patches of each frame, keys (B, T, N, D)."""
    scores = torch.einsum("bkd,btnd->kbtn", prototypes, keys) / keys.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


def binarise(attention: Tensor, threshold: Threshold) -> Tensor:
    """Keep the patches whose L2-normalised attention (k, B, T, N) is above the mean.

    The mean is that of the map itself, so that a clip's masks do not depend on its neighbours in the batch; the
    released code takes one mean over the batch for each object and frame (`batch`).
    """
    unit = F.normalize(attention, dim=-1)
    return unit > unit.mean(dim=-1 if threshold == "map" else (1, 3), keepdim=True)


def apply_masks(frames: Tensor, masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Frames (B, T, 3, H, W) with everything but the object set to 0, the mean colour: (k, B, T, 3, H, W).

    Args:
        frames: normalised images.
        masks: (k, B, T, N), True = keep.
        grid: rows and columns of the N patches.
    """
    rows, columns = frames.shape[-2] // grid[0], frames.shape[-1] // grid[1]
    pixels = masks.unflatten(-1, grid).repeat_interleave(rows, dim=-2).repeat_interleave(columns, dim=-1)
    return frames * pixels[:, :, :, None].to(frames.dtype)
