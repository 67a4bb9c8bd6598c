"""Label propagation: a first frame's soft labels carried through a clip by the likeness of patches (CRW; TimeT).

Nothing learns here and nothing is differentiated. Jabri et al. 2020 (arXiv:2006.14613) follow labels along the walk of
patches from frame to frame; TimeT (arXiv:2308.11796, figure 2b) calls it the feature forwarder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.pretrain.blocks.numerics import full, no_autocast


@dataclass(frozen=True)
class FeatureForwarder:
    """Carries labels from the first frame of each clip to all others, clips side by side.

    The label of patch i at time t is a mean of labels seen before: those of the first frame, which are given, and those
    of the last `context` frames, which were carried there. A seen patch j counts with exp(cos(f_i, f_j) / temperature)
    if it lies near i, and if it is among the `top_k` most alike over all those frames together.

    Attributes:
        radius: near means at most so many rows and so many columns away.
        top_k: patches that count, ties with the last of them included; None takes all that are near, as the paper draws
            it (the released code keeps 5).
        temperature: of the likeness.
        context: carried frames that are looked at, beside the first one.
    """

    radius: int = 6
    top_k: int | None = 5
    temperature: float = 0.1
    context: int = 7

    @torch.no_grad()
    def __call__(self, features: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Labels of every frame.

        Args:
            features: (B, T, N, D) of any length.
            labels: (B, N, K) of the first frame.
            grid: rows and columns of the N patches.

        Returns:
            (B, T, N, K), float32 at least; [:, 0] are the given ones. Rows that sum to 1 stay so.
        """
        with no_autocast(features):
            unit = F.normalize(full(features), dim=-1)
            near = neighbours(grid, self.radius).to(features.device)
            maps = [full(labels)]
            for t in range(1, features.shape[1]):
                seen = [0, *range(max(1, t - self.context), t)]
                weights = self._weights(unit[:, t], unit[:, seen], near)
                maps.append(weights @ torch.cat([maps[s] for s in seen], dim=1))
        return torch.stack(maps, dim=1)

    def _weights(self, target: Tensor, seen: Tensor, near: Tensor) -> Tensor:
        """How much each patch (B, N) takes of each patch of the frames seen (B, C, N), (B, N, C * N); rows sum to 1."""
        likeness = target @ seen.flatten(1, 2).mT / self.temperature
        likeness = likeness.masked_fill(~near.repeat(1, seen.shape[1]), float("-inf"))
        if self.top_k is not None and self.top_k < likeness.shape[-1]:
            weakest = likeness.topk(self.top_k).values[..., -1:]
            likeness = likeness.masked_fill(likeness < weakest, float("-inf"))
        return likeness.softmax(dim=-1)


def neighbours(grid: tuple[int, int], radius: int) -> Tensor:
    """Which patches lie within `radius` rows and columns of each other: bool (N, N)."""
    rows, columns = (torch.arange(n) for n in grid)
    places = torch.cartesian_prod(rows, columns)  # (N, 2), in the patches' order
    return (places[:, None] - places[None]).abs().amax(dim=-1) <= radius
