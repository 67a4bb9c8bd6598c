"""AdamW in groups of equal rate and decay, and clipping of each tensor or module by itself, as DINO's family trains."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.pretrain.config import TrainerParams
from components.pretrain.method import Method
from components.pretrain.schedules import Values

CLIP_EPS = 1e-6  # keeps a zero gradient from dividing by zero; the released code's value


def trained(method: Method) -> dict[str, nn.Parameter]:
    """The student's parameters that learn, by name below `student`."""
    return {name: parameter for name, parameter in method.student.named_parameters() if parameter.requires_grad}


class Pace(NamedTuple):
    """How fast a parameter learns, and whether it decays; see the methods of these names in `Method`."""

    lr_scale: float
    end_lr_scale: float
    rest_epochs: int
    decays: bool

    @classmethod
    def of(cls, method: Method, name: str, parameter: nn.Parameter) -> Pace:
        """What the method says of a student parameter."""
        scale, end_scale = method.lr_scale(name), method.end_lr_scale(name)
        return cls(scale, end_scale, method.rest_epochs(name), method.decays(name, parameter))


def build_optimiser(method: Method, params: TrainerParams) -> torch.optim.AdamW:
    """AdamW in one group for all parameters whose `Pace` a method gives alike."""
    groups: dict[Pace, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained(method).items():
        groups[Pace.of(method, name, parameter)].append(parameter)
    listed = [{"params": members, **pace._asdict()} for pace, members in groups.items()]
    fused = {parameter.device.type for members in groups.values() for parameter in members} <= {"cpu", "cuda"}
    return torch.optim.AdamW(listed, lr=0.0, betas=params.betas, weight_decay=0.0, fused=fused)


def set_values(optimiser: torch.optim.Optimizer, values: Values) -> None:
    """Bring a step's learning rate and weight decay into the groups."""
    for group in optimiser.param_groups:
        lr = values.lr * group["lr_scale"] + values.lr_end * (group["end_lr_scale"] - group["lr_scale"])
        group["lr"] = lr if values.epoch >= group["rest_epochs"] else 0.0
        group["weight_decay"] = values.weight_decay if group["decays"] else 0.0


class Clipping:
    """Bounds the norm of gradients: of each tensor by itself (DINO), or of each module's together (DINOv2, T-CoRe).

    Args:
        method: its student's gradients are meant; its `clip_group` tells the modules.
        params: `clip` and `clip_norm`.
    """

    def __init__(self, method: Method, params: TrainerParams) -> None:
        self.parameters, self.max_norm = list(trained(method).values()), params.clip_norm
        self.group: Tensor | None = None  # of each tensor; None: each is its own
        if params.clip == "module":
            names = [method.clip_group(name) for name in trained(method)]
            places = {name: place for place, name in enumerate(dict.fromkeys(names))}
            self.group = torch.tensor([places[name] for name in names], device=self.parameters[0].device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Scale the gradients where their norm is too large; one that a step left out becomes zero.

        Returns:
            The norm of all gradients before clipping, a scalar on the device: nothing waits for it here.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))
        if self.max_norm is not None:
            scales = (self.max_norm / (self._of_groups(norms) + CLIP_EPS)).clamp_max(1.0)
            torch._foreach_mul_(grads, list(scales.unbind()))
        return torch.linalg.vector_norm(norms)

    def _of_groups(self, norms: Tensor) -> Tensor:
        """The norm of each tensor's group, once a tensor."""
        if self.group is None:
            return norms
        squares = torch.zeros_like(norms).index_add_(0, self.group, norms.square())
        return squares.sqrt()[self.group]
