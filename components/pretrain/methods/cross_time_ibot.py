"""Cross-time self-distillation on images: iBOT whose class token must also hold across time.

From the public code of Cross-Time Self-Distillation (no text of the paper could be found). Each sample is an anchor
frame and a neighbour some seconds before or after it, of the same video. On the anchor all of iBOT happens
(`methods/ibot.py`); the student alone also sees two large views of the neighbour, and must give there what the teacher
gives on the anchor:

    L_time   = mean over pairs (q, v) of H(P_t(cls, anchor view q), P_s(cls, neighbour view v))
               pairs: q = v ("one2one") or all four ("all2all")
    L_tpatch = mean over views v of  sum_i n_vi H(P_t(patch_vi, anchor), P_s(patch_vi, neighbour)) / sum_i n_vi
    loss     = lambda_cls L_cls + lambda_patch L_mim + lambda_time L_time + lambda_timepatch L_tpatch

Teacher and centres see anchors only. Every frame of a pair is the anchor once an epoch, so both directions of time are
learnt. The neighbour's views have boxes and colours of their own; n are its hidden patches: `neighbour_mask` "fresh" (a
mask of its own), "shared" (the anchor's) or "none". L_tpatch compares patches of equal index and knows of no motion: it
is off in all published runs.

Slips of the released code that are not repeated: a video with several pairs gave most anchors a neighbour from another
pair, at another distance in time; L_tpatch was silently 0 without L_time, and crashed without masks (refused here).
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from components.pretrain.blocks.crops import LOCAL, check_sizes, global_recipes
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.blocks.masked_distillation import Hidden, MaskedArgs, MaskedDistillation
from components.pretrain.blocks.self_distillation import cross_entropy, tokens, view_first, view_pair_loss
from components.pretrain.method import Now, StepOutput, register
from components.pretrain.plan import Crop, ViewPlan

GLOBAL_VIEWS = 2
ANCHOR, NEIGHBOUR = 0, 1  # frames of the pair


@register
class CrossTimeIBOT(MaskedDistillation):
    """iBOT on an anchor frame, and its class-token targets for the student's view of a neighbour in time."""

    name = "cross_time_ibot"
    args: Args

    class Args(MaskedArgs):
        """Values of the VidOR image run (pairs 3 s apart); Venice's: one2one, neighbour_mask none, 1 s."""

        lambda_time: float = Field(1.0, ge=0)
        lambda_timepatch: float = Field(0.0, ge=0)
        matching: Literal["one2one", "all2all"] = "all2all"
        neighbour_mask: Literal["none", "fresh", "shared"] = Field("fresh", description="hidden patches of neighbours")

        @model_validator(mode="after")
        def _patches_hidden(self) -> Self:
            if self.lambda_timepatch and self.neighbour_mask == "none":
                raise ValueError("lambda_timepatch compares the neighbour's hidden patches: set neighbour_mask")
            return self

        @property
        def across_time(self) -> bool:
            """Whether the neighbour is looked at; without, this is iBOT."""
            return self.lambda_time > 0 or self.lambda_timepatch > 0

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        check_sizes(args, patch_px)
        size, scale, recipes = args.global_size_px, args.global_scale, global_recipes(GLOBAL_VIEWS)
        crops = [Crop("global", size, scale, recipes, frames=(ANCHOR,), mask=args.masks())]
        if args.across_time:
            mask = args.masks() if args.neighbour_mask == "fresh" else None
            crops.append(Crop("neighbour", size, scale, recipes, frames=(NEIGHBOUR,), mask=mask))
        if args.local_crops:
            small = (LOCAL,) * args.local_crops
            crops.append(Crop("local", args.local_size_px, args.local_scale, small, frames=(ANCHOR,)))
        return ViewPlan(draw="pair", n_frames=2, crops=tuple(crops), both_ways=True, patch_px=patch_px)

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, student = self.args, self.student
        views, mask = view_first(batch["global"]), view_first(batch["global_mask"])  # (2, B, 3, S, S), (2, B, g, g)
        hidden = Hidden.of(mask)

        with torch.no_grad():
            target_cls, target_patches = tokens(self.teacher["backbone"], views)  # the anchor's, never the neighbour's
        cls_probs = self.cls_targets(target_cls, now)  # (2, B, K)
        target_bottleneck = self.patch_bottleneck(target_patches)  # (2, B, P, d)

        cls, rows = self.student_tokens(views, mask)
        if "local" in batch:
            cls = torch.cat([cls, class_tokens(student["backbone"], view_first(batch["local"]))])  # (2 + L, B, D)
        terms = {
            "cls": view_pair_loss(cls_probs, student["head"](cls), args.student_temp),
            "patch": self.hidden_loss(target_bottleneck, rows, hidden, now),
        }
        if args.across_time:
            terms |= self._time_terms(batch, cls_probs, target_bottleneck, now)

        loss = torch.stack([getattr(args, f"lambda_{name}") * term for name, term in terms.items()]).sum()
        monitors = {"teacher_probs": cls_probs.flatten(0, 1), "features": target_cls.flatten(0, 1)}
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()}, monitors)

    def _time_terms(
        self, batch: dict[str, Tensor], cls_probs: Tensor, target_bottleneck: Tensor, now: Now
    ) -> dict[str, Tensor]:
        """L_time and L_tpatch, as far as they count: one more pass of the student, over the neighbour's large views."""
        args, student = self.args, self.student
        masks = {"none": None, "fresh": batch.get("neighbour_mask"), "shared": batch["global_mask"]}
        mask = masks[args.neighbour_mask]
        mask = None if mask is None else view_first(mask)
        views = view_first(batch["neighbour"])  # (2, B, 3, S, S)
        cls, rows = self.student_tokens(views, mask)

        terms = {}
        if args.lambda_time:
            logits = student["head"](cls)  # (2, B, K)
            one2one = args.matching == "one2one"
            terms["time"] = (
                cross_entropy(cls_probs, logits, args.student_temp)
                if one2one
                else view_pair_loss(cls_probs, logits, args.student_temp, skip_same=False)
            )
        if args.lambda_timepatch and mask is not None:
            terms["timepatch"] = self.hidden_loss(target_bottleneck, rows, Hidden.of(mask), now)
        return terms
