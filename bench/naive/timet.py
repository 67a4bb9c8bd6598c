"""The flow of TimeT's released code."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.naive.flow import NaiveFlow
from components.pretrain.method import Now


class Naive(NaiveFlow):
    """TimeT as released, without teacher and queue.

    Every feature call passes the network twice, for the tokens and for the last block's attention, which nothing uses;
    features with the head and features without it are two calls. So all frames go through the network four times, two
    of them with activations kept for all frames, though the loss needs those of the last one. Both the first and the
    last frame are assigned by Sinkhorn, and the second assignment is never used. Labels are carried clip by clip and
    frame by frame, products of labels in float64.

    Sinkhorn, labels and loss are the same numbers as ours.
    """

    def loss(self, batch: dict[str, Tensor], now: Now) -> Tensor:
        clips = batch["global"][:, 0]
        frames, lead = clips.flatten(0, 1), clips.shape[:2]
        projected = self._features(frames, use_head=True).unflatten(0, lead)  # (B, T, N, c)
        with torch.no_grad():
            plain = self._features(frames, use_head=False).unflatten(0, lead)
        first, _ = self._assign(projected[:, 0])
        _, scores = self._assign(projected[:, -1])
        total = scores.new_zeros(())
        for b in range(len(clips)):
            labels = self._carry(plain[b], first[b]).argmax(dim=0)  # (N,)
            total = total + F.cross_entropy(scores[b] / self.args.student_temp, labels)
        return total / len(clips)

    def after_step(self, now: Now) -> None:
        prototypes: Any = self.student["prototypes"]
        weight = prototypes.weight
        with torch.no_grad():
            weight.copy_(F.normalize(weight.data.clone(), dim=1))

    def _features(self, images: Tensor, use_head: bool) -> Tensor:
        backbone: Any = self.student["backbone"]
        tokens = backbone.forward_features(images)[:, backbone.num_prefix_tokens :]
        self._last_attention(images).detach()
        return self.student["head"](tokens) if use_head else tokens

    def _last_attention(self, images: Tensor) -> Tensor:
        """Attention (B, h, L, L) of the last block: another pass of all blocks before it."""
        backbone: Any = self.student["backbone"]
        x = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(images)))
        for block in backbone.blocks[:-1]:
            x = block(x)
        last = backbone.blocks[-1]
        q, k, _ = last.attn.qkv(last.norm1(x)).unflatten(-1, (3, last.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(-2, -1) * last.attn.scale).softmax(dim=-1)

    def _assign(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Assignment and scores (B, N, K) of one frame of each clip."""
        prototypes: Any = self.student["prototypes"]
        scores = F.normalize(projected.flatten(0, 1), dim=-1) @ prototypes.weight.T
        with torch.no_grad():
            q = (scores / self.args.sinkhorn_epsilon).exp().T
            q = q / q.sum()
            for _ in range(self.args.sinkhorn_iterations):
                q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
                q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
            q = (q / q.sum(dim=0, keepdim=True)).T
        return q.unflatten(0, projected.shape[:2]), scores.unflatten(0, projected.shape[:2])

    @torch.no_grad()
    def _carry(self, features: Tensor, first: Tensor) -> Tensor:
        """Labels (K, N) of the last frame of one clip, features (T, N, D), from those of the first, (N, K)."""
        near = self._near(round(features.shape[1] ** 0.5)).to(features)
        seen, carried = [features[0].T], [first.T.double()]
        for target in features[1:]:
            sources = F.normalize(torch.stack(seen), dim=1)  # (C, D, N)
            targets = F.normalize(target, dim=1).expand(len(seen), -1, -1)
            affinity = (torch.bmm(targets, sources) / self.args.forward_temp).exp() * near
            affinity = affinity.transpose(2, 1).reshape(-1, len(target))  # (C * N, N)
            weakest = affinity.topk(self.args.top_k, dim=0).values.min(dim=0).values
            affinity[affinity < weakest] = 0
            affinity = affinity / affinity.sum(dim=0, keepdim=True)
            labels = torch.cat(carried, dim=1) @ affinity.double()
            seen.append(target.T)
            carried.append(labels)
            if len(seen) > self.args.context + 1:
                del seen[1], carried[1]
        return carried[-1]

    def _near(self, side: int) -> Tensor:
        """The released code keeps this mask from the first clip on."""
        if not hasattr(self, "_mask"):
            mask, radius = torch.zeros(side, side, side, side), self.args.radius
            for i in range(side):
                for j in range(side):
                    mask[i, j, max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1] = 1
            self._mask = mask.flatten(2).flatten(0, 1)
        return self._mask
