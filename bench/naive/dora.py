"""The flow of DoRA's released code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.naive.flow import NaiveFlow
from components.common.vit import tokens_and_attention
from components.pretrain.blocks.tracker import TeacherView, apply_masks, draw_heads, track
from components.pretrain.method import Method, Now


class Naive(NaiveFlow):
    """Frame by frame: each frame of the clip is a pass of its own through the teacher, through the student for every
    object, and, with its local crops, through the student again. The local term, equal for all objects, is computed
    anew for each. The tracker is ours (the release's turns to NaN); so are the weights of the terms, without its slips.
    """

    def __init__(self, method: Method, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        super().__init__(method, lr, weight_decay, clip_norm)
        self.centre: Tensor = self.source.centre.value.clone()

    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        args, frames = self.args, batch["global"][:, 0]  # (B, T, 3, S, S)
        n_frames = frames.shape[1]
        teacher_logits, view = self.teach(frames)
        masked = self.masked(frames, view, now)
        objects = [[self.student_logits(image[:, t]) for t in range(n_frames)] for image in masked]
        crops = list(batch["local"].transpose(0, 1)) if "local" in batch else []
        local = [
            self.student_logits(torch.cat([crop[:, t] for crop in crops])) for t in range(n_frames if len(crops) else 0)
        ]
        total = frames.new_zeros(())
        for own in objects:
            for t in range(n_frames):
                probs = torch.softmax((teacher_logits[t] - self.centre) / args.teacher_temp, dim=-1)
                term = self.entropy(probs, own[t])
                if local:
                    of_crops = [self.entropy(probs, crop) for crop in local[t].chunk(len(crops))]
                    term = 0.5 * (term + sum(of_crops) / len(of_crops))
                total = total + term
        m = args.centre_momentum
        self.centre = self.centre * m + torch.cat(teacher_logits).mean(dim=0) * (1 - m)
        return total / (len(objects) * n_frames)

    @torch.no_grad()
    def teach(self, frames: Tensor) -> tuple[list[Tensor], TeacherView]:
        backbone: Any = self.teacher["backbone"]
        found = [tokens_and_attention(backbone, frames[:, t]) for t in range(frames.shape[1])]
        tokens, attention, queries, keys = (torch.stack(x, dim=1) for x in zip(*found, strict=True))
        logits = [self.teacher["head"](tokens[:, t, 0]) for t in range(frames.shape[1])]
        return logits, TeacherView(tokens[:, :, backbone.num_prefix_tokens :], attention, queries, keys)

    def masked(self, frames: Tensor, view: TeacherView, now: Now) -> Tensor:
        args = self.args
        heads = draw_heads(self.source.n_heads, args.n_objects, now.generator)
        masks = track(
            view, heads, epsilon=args.sinkhorn_epsilon, n_iterations=args.sinkhorn_iterations, threshold=args.threshold
        )
        backbone: Any = self.teacher["backbone"]
        return apply_masks(frames, masks, backbone.patch_embed.dynamic_feat_size(frames.shape[-2:]))

    def student_logits(self, images: Tensor) -> Tensor:
        return self.student["head"](self.student["backbone"](images))

    def entropy(self, probs: Tensor, logits: Tensor) -> Tensor:
        return (-probs * torch.log_softmax(logits / self.args.student_temp, dim=-1)).sum(dim=-1).mean()
