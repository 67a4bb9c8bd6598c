"""iBOT: image BERT pre-training with an online tokenizer (Zhou et al., ICLR 2022, arXiv:2111.07832).

The student sees two large views of a frame with blocks of patches hidden, and small views whole; its EMA teacher sees
the large views whole. The teacher is the tokenizer of masked image modelling, and it is trained along:

    L_cls = mean over (teacher view q, student view v != q) of H(P_t(cls_q), P_s(cls_v))                 (DINO's loss)
    L_mim = mean over large views v of  sum_i m_vi H(P_t(patch_vi), P_s(hidden patch_vi)) / sum_i m_vi          (eq. 2)
    loss  = lambda_cls L_cls + lambda_patch L_mim

Heads (section 3.3): `shared_head` and `shared_head_teacher` true is the paper's and all published runs' setting, class
token and patches meet the same prototypes; both false separates them; false and true is "semi-shared", in which the
teacher's prototypes follow the student's for the class token. The layers before the prototypes are always shared.

Each large view hides nothing with probability 1/2, else 10 to 50 % of its patches in blocks. Where text and released
code differ: the ratio is drawn once a view (code) or once an image (paper: `mask_per_image`), and a view that hides
nothing counts as 0 in L_mim's mean (code; the paper divides by zero there). `compat`: with semi-shared heads, the
released teacher starts with the student's prototypes for patches, then follows those for the class token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.pretrain.blocks.crops import LOCAL, check_sizes, global_recipes
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.blocks.masked_distillation import Hidden, MaskedArgs, MaskedDistillation
from components.pretrain.blocks.self_distillation import tokens, view_first, view_pair_loss
from components.pretrain.method import Now, StepOutput, register
from components.pretrain.plan import Crop, ViewPlan

GLOBAL_VIEWS = 2


@register
class IBOT(MaskedDistillation):
    """iBOT on single frames."""

    name = "ibot"

    class Args(MaskedArgs):
        """Published values of ViT-S/16."""

    @classmethod
    def views(cls, args: MaskedArgs, patch_px: int) -> ViewPlan:
        check_sizes(args, patch_px)
        recipes = global_recipes(GLOBAL_VIEWS)
        crops = [Crop("global", args.global_size_px, args.global_scale, recipes, mask=args.masks())]
        if args.local_crops:
            crops.append(Crop("local", args.local_size_px, args.local_scale, (LOCAL,) * args.local_crops))
        return ViewPlan(draw="frame", n_frames=1, crops=tuple(crops), patch_px=patch_px)

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, student = self.args, self.student
        views, mask = view_first(batch["global"]), view_first(batch["global_mask"])  # (2, B, 3, S, S), (2, B, g, g)
        hidden = Hidden.of(mask)

        with torch.no_grad():
            target_cls, target_patches = tokens(self.teacher["backbone"], views)  # (2, B, D), (2, B, P, D)
        cls_probs = self.cls_targets(target_cls, now)  # (2, B, K)
        target_bottleneck = self.patch_bottleneck(target_patches)  # (2, B, P, d)

        # one pass serves both losses; small views hide nothing
        cls, rows = self.student_tokens(views, mask)
        if "local" in batch:
            cls = torch.cat([cls, class_tokens(student["backbone"], view_first(batch["local"]))])  # (2 + L, B, D)
        loss_cls = view_pair_loss(cls_probs, student["head"](cls), args.student_temp)
        loss_patch = self.hidden_loss(target_bottleneck, rows, hidden, now)

        loss = args.lambda_cls * loss_cls + args.lambda_patch * loss_patch
        terms = {"cls": loss_cls.detach(), "patch": loss_patch.detach()}
        monitors = {"teacher_probs": cls_probs.flatten(0, 1), "features": target_cls.flatten(0, 1)}
        return StepOutput(loss, terms, monitors)
