"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv:2104.14294).

A student sees two large and several small views of one frame, its EMA teacher only the large ones; the student's
class token must give the teacher's distribution over prototypes for every other view:

    loss = mean over (teacher view t, student view s != t) of H(softmax((z_t - c) / tau_t), softmax(z_s / tau_s))

with the centre c an EMA of the teacher's logits (eq. 3 and 4). Centring and a sharp teacher together keep the
solution from collapsing. As in the released code, the large views come first, so pairs of equal index are one view.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.crops import LOCAL, CropArgs, check_sizes, global_recipes
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.blocks.prototype_loss import Scores, Targets, view_pair_loss
from components.pretrain.blocks.self_distillation import (
    DistillationArgs,
    check_warmup,
    last_layers,
    make_teacher,
    teacher_temperature,
    view_first,
)
from components.pretrain.method import EncoderFactory, Method, Now, StepOutput, register
from components.pretrain.plan import Crop, ViewPlan

GLOBAL_VIEWS = 2


@register
class DINO(Method):
    """DINO on single frames."""

    name = "dino"

    class Args(DistillationArgs, CropArgs):
        """Published values of the vanilla ViT-S/16 run; longer runs train the gain and warm the temperature up."""

        train_gain: bool = Field(False, description="train the prototypes' gain (norm_last_layer false in DINO's code)")

    def __init__(self, args: Args, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        check_warmup("warmup_teacher_temp_epochs", args.warmup_teacher_temp_epochs, epochs)
        self.args = args
        backbone: Any = build_encoder(drop_path_rate=args.drop_path)
        check_sizes(args, backbone.patch_embed.patch_size[0])
        self.student = nn.ModuleDict({"backbone": backbone, "head": args.head(backbone.num_features)})
        self.teacher = make_teacher(self.student, build_encoder())
        self.centre = Centre(args.out_dim, args.centre_momentum)

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        crops = [Crop("global", args.global_size_px, args.global_scale, global_recipes(GLOBAL_VIEWS))]
        if args.local_crops:
            crops.append(Crop("local", args.local_size_px, args.local_scale, (LOCAL,) * args.local_crops))
        return ViewPlan(draw="frame", n_frames=1, crops=tuple(crops))

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args = self.args
        groups = [view_first(batch[name]) for name in ("global", "local") if name in batch]  # (V, B, 3, S, S)

        with torch.no_grad():
            target = class_tokens(self.teacher["backbone"], groups[0])
            teacher = Scores.of(self.teacher["head"], target)  # (2, B) rows over K prototypes
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        targets = Targets(teacher, self.centre.value, tau)
        self.centre.add_sum(*teacher.sum())

        # one pass a resolution: the views of one size are one batch
        cls = torch.cat([class_tokens(self.student["backbone"], group) for group in groups])  # (2 + L, B, D)
        loss = view_pair_loss(targets, Scores.of(self.student["head"], cls), args.student_temp)

        monitors = {"teacher_probs": targets.some(), "features": target.flatten(0, 1)}
        return StepOutput(loss, {"dino": loss.detach()}, monitors)

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.centre.update()

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        return last_layers(self.student, now.epoch < self.args.freeze_last_layer_epochs)
