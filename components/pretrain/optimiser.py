"""AdamW in two groups, and clipping of each tensor by itself, as DINO trains (arXiv:2104.14294, released code)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from components.pretrain.config import TrainerParams
from components.pretrain.schedules import Values

CLIP_EPS = 1e-6  # keeps a zero gradient from dividing by zero; the released code's value


def build_optimiser(student: nn.Module, params: TrainerParams) -> torch.optim.AdamW:
    """AdamW with decay for matrices (class token and position table included) and none for biases and 1-D tensors."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "decays": True}, {"params": plain, "decays": False}]
    fused = {p.device.type for p in (*decayed, *plain)} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=0.0, betas=params.betas, weight_decay=0.0, fused=fused)


def set_values(optimiser: torch.optim.Optimizer, values: Values) -> None:
    """Bring a step's learning rate and weight decay into the groups."""
    for group in optimiser.param_groups:
        group["lr"] = values.lr
        group["weight_decay"] = values.weight_decay if group["decays"] else 0.0


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale each tensor's gradient so that its own norm is at most `max_norm`.

    Returns:
        The norm of all gradients together before clipping, a scalar on the device: nothing waits for it here.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(grads)
    if max_norm is not None:
        scales = torch._foreach_add(norms, CLIP_EPS)
        torch._foreach_reciprocal_(scales)
        torch._foreach_mul_(scales, max_norm)
        torch._foreach_clamp_max_(scales, 1.0)
        torch._foreach_mul_(grads, scales)
    return torch.linalg.vector_norm(torch.stack(list(norms)))
