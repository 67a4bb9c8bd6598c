"""The flow of DINO's released code."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.naive.flow import NaiveFlow, pair_losses
from components.pretrain.method import Method, Now


class Naive(NaiveFlow):
    """Dense logits of all views, and a log-softmax of its own for each of the 18 pairs of views."""

    def __init__(self, method: Method, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        super().__init__(method, lr, weight_decay, clip_norm)
        self.centre: Tensor = self.source.centre.value.clone()

    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        args, large = self.args, list(batch["global"][:, :, 0].unbind(1))
        with torch.no_grad():
            teacher = self.teacher["head"](self.cls(self.teacher, large))
        student = [self.cls(self.student, large)]
        if "local" in batch:
            student.append(self.cls(self.student, list(batch["local"][:, :, 0].unbind(1))))
        logits = self.student["head"](torch.cat(student))
        probs = torch.softmax((teacher - self.centre) / args.teacher_temp, dim=-1)
        loss = pair_losses(list(probs.chunk(2)), list(logits.chunk(len(logits) // len(large[0]))), args.student_temp)
        self.centre = self.centre * args.centre_momentum + teacher.mean(dim=0) * (1 - args.centre_momentum)
        return loss

    @staticmethod
    def cls(network: torch.nn.ModuleDict, views: list[Tensor]) -> Tensor:
        return network["backbone"](torch.cat(views))
