"""What a method needs that clusters while it learns: a patch head, unit prototypes, a memory of earlier patches."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.pretrain import parallel
from components.pretrain.blocks.numerics import full, no_autocast


def patch_head(dims: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with GELU between them, on torch's own start: (..., dims[0]) -> (..., dims[-1])."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(dims):
        layers += [nn.Linear(wide, narrow), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class UnitPrototypes(nn.Module):
    """K directions on the sphere, drawn evenly; scores are cosines (SwAV, arXiv:2006.09882; TimeT).

    The rows are trained as they are and brought back to length 1 by `normalise` after each optimiser step.
    """

    def __init__(self, dim: int, n_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(n_prototypes, dim), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines (..., K) of vectors (..., dim) of any length, float32 at least; a zero vector has none but zeros."""
        with no_autocast(x):
            return F.linear(F.normalize(full(x), dim=-1), self.weight)

    @torch.no_grad()
    def normalise(self) -> None:
        """Back to unit rows."""
        self.weight.copy_(F.normalize(self.weight, dim=-1))


class FeatureQueue(nn.Module):
    """The latest features of the whole batch, newest first, the same in every process; saved with the method.

    They join Sinkhorn's rows, so that small batches share the prototypes out as large ones do. While the queue is not
    yet full it stands aside.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Put this process's rows (n, dim) in front, with those of the others, and forget the oldest."""
        new = parallel.gather(features.to(self.rows.dtype))
        self.rows.copy_(torch.cat([new, self.rows])[: len(self.rows)])
        self.seen += len(new)

    def share(self) -> Tensor:
        """The rows that this process adds to the assignment, (m, dim): all of them once, over all processes."""
        if int(self.seen) < len(self.rows):
            return self.rows[:0]
        return self.rows[parallel.rank() :: parallel.world_size()]


def draw_patches(patches: Tensor, per_clip: int, generator: torch.Generator) -> Tensor:
    """Random patches of each clip, (B, N, c) -> (B * per_clip, c): other ones for each clip of the whole batch.

    `generator`, which all processes have alike, is left as it is; each takes its own clips' part of the draw. (The
    released code draws as many from the whole batch at once, so that a clip may give a few more or less.)
    """
    n_clips, n_patches, _ = patches.shape
    twin = torch.Generator().set_state(generator.get_state())
    draw = torch.rand(parallel.world_size(), n_clips, n_patches, generator=twin)[parallel.rank()]
    chosen = draw.argsort(dim=-1)[:, :per_clip].to(patches.device)
    return torch.take_along_dim(patches, chosen[..., None], dim=1).flatten(0, 1)
