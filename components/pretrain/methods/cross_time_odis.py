"""Cross-time self-distillation on objects: ODIS whose object token must also hold across time.

From the public code of Cross-Time Self-Distillation (no text of the paper could be found). Each sample is an anchor
frame, a neighbour some seconds before or after it in the same video, and one object that both show. On the anchor all
of ODIS happens (`methods/odis.py`); the student alone also sees two large views of the neighbour, without hidden
patches, and must give there what the teacher gives on the anchor, for the object and, where asked, for the picture:

    L_timeobj = mean over pairs (q, v) of
                mean over samples of [both show the object] H(P_t(obj, anchor view q), P_s(obj, neighbour view v))
    L_time    = mean over pairs (q, v) of H(P_t(cls, anchor view q), P_s(cls, neighbour view v))
    loss      = lambda_cls L_cls + lambda_patch L_mim + lambda_object L_obj
                + lambda_timeobj L_timeobj + lambda_time L_time

with pairs q = v ("one2one") or all four ("all2all"). Teacher and centres see anchors only, save that `objects: teacher`
looks for the anchor's object in the neighbour. Every frame of a pair is the anchor once an epoch.

Slips of the released code that are not repeated: the two frames of a pair chose their objects independently, so the
loss across time compared a cat with a dog whenever the largest object changed; pairs of one video were mixed up, at
other distances in time; a weight on L_time computed nothing (VidOR) or crashed (Venice), all2all over objects gave 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from components.pretrain.blocks.masked_distillation import Hidden
from components.pretrain.blocks.object_distillation import (
    ObjectArgs,
    ObjectDistillation,
    both_see,
    object_pair_loss,
    visible,
)
from components.pretrain.blocks.object_views import outlined
from components.pretrain.blocks.self_distillation import cross_entropy, view_first, view_pair_loss
from components.pretrain.method import Now, StepOutput, register
from components.pretrain.plan import ViewPlan

Matching = Literal["one2one", "all2all"]


@register
class CrossTimeODIS(ObjectDistillation):
    """ODIS on an anchor frame, and its targets for the student's view of the same object some seconds away."""

    name = "cross_time_odis"
    args: Args

    class Args(ObjectArgs):
        """Values of the VidOR object run (pairs 5 s apart); Venice's: 1 s, both weights across time 0."""

        lambda_time: float = Field(0.0, ge=0, description="of the class token across time")
        lambda_timeobj: float = Field(1.0, ge=0)
        matching: Matching = Field("all2all", description="pairs of views that L_time compares")
        object_matching: Matching = Field("all2all", description="pairs of views that L_timeobj compares")

        @property
        def across_time(self) -> bool:
            """Whether the neighbour is looked at; without, this is ODIS."""
            return self.lambda_time > 0 or self.lambda_timeobj > 0

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        crops = args.object_crops()
        if args.across_time:
            crops = (*crops, args.neighbour_crop())
        objects = args.targets(crops)
        return ViewPlan(args.pair_draw, 2, crops, both_ways=True, objects=objects, patch_px=patch_px)

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, student = self.args, self.student
        views, mask = view_first(batch["global"]), view_first(batch["global_mask"])  # (2, B, 3, S, S), (2, B, g, g)
        objects = self.find_objects(batch)  # (V, B, g, g) of every crop group

        with torch.no_grad():
            target = self.look(self.teacher, views, objects["global"])  # the anchor's, never the neighbour's
        obj_targets = self.object_targets(target.obj, now)  # (2, B, K)
        cls_targets = self.cls_targets(target.cls, now) if args.lambda_cls or args.lambda_time else None
        bottleneck = self.patch_bottleneck(target.patches)  # (2, B, P, d)

        found = self.look(student, views, objects["global"], mask)
        cls, obj = self.with_locals(batch, found)  # (2 + L, B, D)
        valid = both_see(visible(objects["global"]), self.student_sees(objects))
        logits = self.object_logits(student, obj)
        hidden = Hidden.of(mask)
        terms = {
            "patch": self.hidden_loss(bottleneck, hidden.take(found.patches), hidden, now),
            "object": object_pair_loss(obj_targets, logits, args.student_temp, valid, "others"),
        }
        if args.lambda_cls and cls_targets is not None:
            terms["cls"] = view_pair_loss(cls_targets, student["head"](cls), args.student_temp)
        if args.across_time:
            terms |= self._time_terms(view_first(batch["neighbour"]), objects, obj_targets, cls_targets)
        return self.output(terms, obj_targets, target.obj)

    def _time_terms(
        self, views: Tensor, objects: dict[str, Tensor], obj_targets: Tensor, cls_targets: Tensor | None
    ) -> dict[str, Tensor]:
        """L_timeobj and L_time, as far as they count: one more pass of the student, over neighbours (2, B, 3, S, S)."""
        args, student = self.args, self.student
        found = self.look(student, views, objects["neighbour"])  # nothing hidden
        terms = {}
        if args.lambda_timeobj:
            valid = both_see(visible(objects["global"]), visible(objects["neighbour"]))
            logits = self.object_logits(student, found.obj)
            terms["timeobj"] = object_pair_loss(obj_targets, logits, args.student_temp, valid, args.object_matching)
        if args.lambda_time and cls_targets is not None:
            logits = student["head"](found.cls)  # (2, B, K)
            terms["time"] = (
                cross_entropy(cls_targets, logits, args.student_temp)
                if args.matching == "one2one"
                else view_pair_loss(cls_targets, logits, args.student_temp, skip_same=False)
            )
        return terms

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """Large views of some samples, one sample a row: the anchor's, then the neighbour's, the object outlined."""
        groups = [name for name in ("global", "neighbour") if name in batch]
        return super().pictures(batch, now) | {"objects": [outlined(batch, self.find_objects(batch), groups)]}
