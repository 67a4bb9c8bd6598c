"""Entropic optimal transport: patches shared out between objects or prototypes (Cuturi 2013, arXiv:1306.0895)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from components.pretrain import parallel


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, n_iterations: int, over_processes: bool = False) -> Tensor:
    """Soft assignment of N patches to k objects that share the patches about equally.

    DoRA (arXiv:2310.08584, section 3) shares one frame's patches out between its objects; TimeT and SwAV
    (arXiv:2006.09882, section 3.1) share those of the whole batch out between their prototypes.

    Alternately scales objects to mass 1/k and patches to mass 1/N. The last scaling is of the patches, so their
    rows sum to 1 exactly and the objects' masses are N/k approximately.

    Works on logarithms in float64: a range of scores that underflows `exp` (released DoRA code gives NaN, hence
    empty masks, once a patch lies 5.2 below the maximum at epsilon 0.05) stays finite and correct here.

    Args:
        scores: (B, N, k) similarities, any float type; +-inf counts as the largest finite value.
        epsilon: entropy weight; smaller is sharper.
        n_iterations: pairs of scalings.
        over_processes: the N patches are this process's part of one large assignment (parts may differ in size). Then
            the processes exchange k numbers an iteration and no patch.

    Returns:
        (B, N, k), in the type of `scores` but float32 at least.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float64).max / 4 * min(epsilon, 1.0))  # sums stay finite
    log_plan = scores.to(dtype).clamp(-limit, limit).double() / epsilon
    n_patches, n_objects = scores.shape[-2:]
    for _ in range(n_iterations):
        mass = log_plan.logsumexp(dim=-2, keepdim=True)
        if over_processes:
            mass = parallel.gather(mass[None]).logsumexp(dim=0)
        log_plan = log_plan - mass - math.log(n_objects)
        log_plan = log_plan - log_plan.logsumexp(dim=-1, keepdim=True) - math.log(n_patches)
    return (log_plan + math.log(n_patches)).exp().to(dtype)
