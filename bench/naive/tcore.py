"""T-CoRe as its released code goes through a step; losses and weights are ours, so that both count alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.naive.flow import NaiveFlow
from components.pretrain.blocks.masked_vit import masked_tokens
from components.pretrain.blocks.self_distillation import teacher_temperature
from components.pretrain.method import Method, Now

PAST, FUTURE = 0, 1


class Naive(NaiveFlow):
    """What costs time in the release: past and future frames of every view go through the encoder, one after the other,
    and through the matching module, though half of the views have no masked patch to fill in; the module's attention
    maps are formed and thrown away; the head runs on the class tokens twice; every pair of views is a pass over the
    logits.
    """

    scales_queries = True

    def __init__(self, method: Method, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        super().__init__(method, lr, weight_decay, clip_norm)
        source: Any = method
        self.centres = {"cls": source.centre.value.clone(), "patch": source.patch_centre.value.clone()}
        self.means: dict[str, Tensor] = {}

    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        args: Any = self.args
        student: Any = self.student
        views, around = batch["global"][:, :, 0], batch["around"]
        current = torch.cat([views[:, 0], views[:, 1]])  # one view of all samples, then the other
        mask = torch.cat([batch["global_mask"][:, 0, 0], batch["global_mask"][:, 1, 0]])
        hidden = mask.flatten(1)
        targets, patch_targets = self.targets(current, hidden, now)

        frames = [torch.cat([around[:, 0, t], around[:, 1, t]]) for t in (PAST, FUTURE)]
        with torch.no_grad():
            others = [student["backbone"].forward_features(frame) for frame in frames]
        cls, patches = masked_tokens(student["backbone"], current, mask, student["mask_token"].value)
        n_local = batch["local"].shape[1]
        local = torch.cat([batch["local"][:, k, 0] for k in range(n_local)])
        local_cls = student["backbone"].forward_features(local)[:, 0]

        n_prefix = student["backbone"].num_prefix_tokens
        filled = [self.match(patches, other[:, n_prefix:])[hidden] for other in others]
        rows = [len(local_cls), len(cls), int(hidden.sum())]
        local_logits, cls_logits, past = student["head"](torch.cat([local_cls, cls, filled[0]])).split(rows)
        _, _, future = student["head"](torch.cat([local_cls, cls, filled[1]])).split(rows)

        loss = self.dino(targets, cls_logits, local_logits, n_local)
        for view in cls.chunk(2):
            loss = loss + args.w_koleo * self.koleo(view, args.koleo_group)
        weights = (1 / hidden.sum(1, keepdim=True).clamp(min=1)).expand_as(hidden)[hidden]
        for weight, logits in ((args.w_past, past), (args.w_future, future)):
            rows_loss = -(patch_targets * F.log_softmax(logits / args.student_temp, dim=-1)).sum(-1)
            loss = loss + weight * (rows_loss * weights).sum() / len(current)
        return loss + args.w_agree * ((past - future) ** 2).mean()

    @torch.no_grad()
    def targets(self, current: Tensor, hidden: Tensor, now: Now) -> tuple[Tensor, Tensor]:
        """Teacher probabilities of class tokens, views swapped (2B, K), and of masked patches (M, K)."""
        args: Any = self.args
        teacher: Any = self.teacher
        found = teacher["backbone"].forward_features(current)
        first, second = found[:, 0].chunk(2)
        logits = {"cls": teacher["head"](torch.cat([second, first]))}
        logits["patch"] = teacher["head"](found[:, teacher["backbone"].num_prefix_tokens :][hidden])
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        self.means = {name: z.mean(0) for name, z in logits.items()}
        cls, patch = (F.softmax((z - self.centres[name]) / tau, dim=-1) for name, z in logits.items())
        return cls, patch

    def match(self, x: Tensor, other: Tensor) -> Tensor:
        pmm: Any = self.student["matching"]
        found, _ = pmm.cross(x, other, other, need_weights=True)
        u = pmm.norm1(found * pmm.gain + x)
        mixed, _ = pmm.itself(u, u, u, need_weights=True)
        v = pmm.norm2(mixed + u)
        return pmm.norm3(pmm.linear(v) + v)

    def dino(self, targets: Tensor, cls: Tensor, local: Tensor, n_local: int) -> Tensor:
        """Local views against both targets, pair by pair; then the two large views, against the swapped targets."""
        temperature = self.args.student_temp  # type: ignore[attr-defined]
        terms, loss = 2 + 2 * n_local, torch.zeros(())
        for crop in local.chunk(n_local):
            log_probs = F.log_softmax(crop / temperature, dim=-1)
            for target in targets.chunk(2):
                loss = loss - (target * log_probs).sum(-1).mean() / terms
        return loss - 2 / terms * (targets * F.log_softmax(cls / temperature, dim=-1)).sum(-1).mean()

    def koleo(self, view: Tensor, group: int) -> Tensor:
        loss = torch.zeros(())
        parts = F.normalize(view, dim=-1).split(group)
        for z in parts:
            dots = (z @ z.T).detach()
            dots.fill_diagonal_(-1)
            loss = loss - torch.log(F.pairwise_distance(z, z[dots.argmax(1)], eps=1e-8) + 1e-8).mean()
        return loss / len(parts)

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        for name, mean in self.means.items():
            self.centres[name] = 0.9 * self.centres[name] + 0.1 * mean
