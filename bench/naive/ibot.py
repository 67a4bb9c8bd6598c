"""The flow of iBOT's released code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.naive.flow import NaiveFlow, pair_losses
from components.pretrain.blocks.masked_vit import masked_tokens
from components.pretrain.blocks.self_distillation import teacher_temperature
from components.pretrain.method import Method, Now


class Naive(NaiveFlow):
    """Dense logits at every patch, hidden or not, of student and teacher; each pair of views a pass over its logits.

    The head takes all tokens of small views, too, and gives back the class token's logits.
    """

    def __init__(self, method: Method, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        super().__init__(method, lr, weight_decay, clip_norm)
        self.centre: Tensor = self.source.centre.value.clone()
        self.patch_centre: Tensor = self.source.patch_centre.value.clone()

    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        args, student, teacher = self.args, self.student, self.teacher
        large = batch["global"][:, :, 0].transpose(0, 1).flatten(0, 1)  # one view of all samples, then the other
        mask = batch["global_mask"][:, :, 0].transpose(0, 1).flatten(0, 1)
        with torch.no_grad():
            told: Any = teacher["backbone"]
            targets = teacher["head"](told.forward_features(large))  # (2B, 1 + P, K)
        token: Any = student["mask_token"]
        found, patches = masked_tokens(student["backbone"], large, mask, token.value)
        logits = student["head"](torch.cat([found[:, None], patches], dim=1))
        cls = logits[:, 0]
        if "local" in batch:
            local = batch["local"][:, :, 0].transpose(0, 1).flatten(0, 1)
            own: Any = student["backbone"]
            cls = torch.cat([cls, student["head"](own.forward_features(local))[:, 0]])
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        patch_tau = teacher_temperature(
            now.epoch, args.warmup_patch_temp, args.patch_temp, args.warmup_patch_temp_epochs
        )
        probs = torch.softmax((targets[:, 0] - self.centre) / tau, dim=-1)
        patch_probs = torch.softmax((targets[:, 1:] - self.patch_centre) / patch_tau, dim=-1)
        batch_size = len(batch["global"])
        loss_cls = pair_losses(list(probs.chunk(2)), list(cls.split(batch_size)), args.student_temp)
        loss_patch = logits.new_zeros(())
        for view in range(2):
            rows = slice(view * batch_size, (view + 1) * batch_size)
            own_logits = logits[rows, 1:]
            each = (-patch_probs[rows] * torch.log_softmax(own_logits / args.student_temp, dim=-1)).sum(dim=-1)
            hidden = mask[rows].flatten(1).float()
            loss_patch = loss_patch + ((each * hidden).sum(dim=-1) / hidden.sum(dim=-1).clamp(min=1.0)).mean() / 2
        self.follow(targets)
        return args.lambda_cls * loss_cls + args.lambda_patch * loss_patch

    def follow(self, targets: Tensor) -> None:
        m, n = self.args.centre_momentum, self.args.patch_centre_momentum
        self.centre = self.centre * m + targets[:, 0].mean(dim=0) * (1 - m)
        self.patch_centre = self.patch_centre * n + targets[:, 1:].mean(dim=(0, 1)) * (1 - n)
