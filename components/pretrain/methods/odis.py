"""ODIS: object-level self-distillation (Hizli, Yildiz, Marttinen 2025, arXiv:2506.05409).

What DINO and iBOT compare is a whole picture's class token, though two crops of a picture may show different things.
ODIS compares one object instead: an object token reads, in every block, only the patches of the target object, and
large views are cut so that they contain it. iBOT's loss on hidden patches stays:

    L_obj = mean over (teacher view q, student view v != q) of
            mean over samples of [q and v show the object] H(P_t(obj_q), P_s(obj_v))
    loss  = lambda_cls L_cls + lambda_patch L_mim + lambda_object L_obj          (0, 1, 1)

The paper's body could not be had, nor is there official code. The layout [CLS, OBJ, patches] and the values are those
of the code derived from it (Cross-Time Self-Distillation): the object token also reads the class token, in small views
it reads everything, and all tokens may read it. `replace_cls` is the author's own description: the object token takes
the class token's place, so the exported ViT's class token is the object token. One object token: more did worse.

Where the derived code differs from what is meant: it counts small views that do not show the object, which pulls what
happens to be in them towards it; here a small view counts if it shows some of the object (`local_objects: all` as
released). Objects come from the index, or without annotations from the teacher (`objects`, blocks/teacher_objects.py).
"""

from __future__ import annotations

from typing import Any

import torch
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
from components.pretrain.blocks.self_distillation import view_first, view_pair_loss
from components.pretrain.method import Now, StepOutput, register
from components.pretrain.plan import ViewPlan


@register
class ODIS(ObjectDistillation):
    """ODIS on single frames."""

    name = "odis"

    class Args(ObjectArgs):
        """Values of the derived code's baseline runs."""

    @classmethod
    def views(cls, args: ObjectArgs, patch_px: int) -> ViewPlan:
        crops = args.object_crops()
        return ViewPlan(args.frame_draw, 1, crops, objects=args.targets(crops), patch_px=patch_px)

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, student = self.args, self.student
        views, mask = view_first(batch["global"]), view_first(batch["global_mask"])  # (2, B, 3, S, S), (2, B, g, g)
        objects = self.find_objects(batch)  # (V, B, g, g) of every crop group

        with torch.no_grad():
            target = self.look(self.teacher, views, objects["global"])
        targets = self.object_targets(target.obj, now)  # (2, B, K)
        bottleneck = self.patch_bottleneck(target.patches)  # (2, B, P, d)

        found = self.look(student, views, objects["global"], mask)
        cls, obj = self.with_locals(batch, found)  # (2 + L, B, D)
        valid = both_see(visible(objects["global"]), self.student_sees(objects))
        logits = self.object_logits(student, obj)
        hidden = Hidden.of(mask)
        terms = {
            "patch": self.hidden_loss(bottleneck, hidden.take(found.patches), hidden, now),
            "object": object_pair_loss(targets, logits, args.student_temp, valid, "others"),
        }
        if args.lambda_cls:
            cls_targets = self.cls_targets(target.cls, now)
            terms["cls"] = view_pair_loss(cls_targets, student["head"](cls), args.student_temp)
        return self.output(terms, targets, target.obj)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """Large views of some samples, one sample a row, with the target object outlined."""
        return super().pictures(batch, now) | {"objects": [outlined(batch, self.find_objects(batch), ["global"])]}
