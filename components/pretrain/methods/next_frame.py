"""Next-frame video self-distillation (Simon, Kim, Yeom 2025, arXiv:2507.19272).

The student sees frame t; a predictor on its tokens must give the teacher's patch tokens of frame t + D:

    loss = (L_dense + L_cls) / 2
    L_dense = mean over cells j of H(teacher patch head at (t + D, j), patch head of predictor at j)
    L_cls   = DINO's loss on the class tokens

Both frames share crop box and flip, so that cell j is one place in both; no flow, no tracker, no warping. The
predictor has no teacher and is thrown away with the heads. No code was released: head sizes, temperatures and the
number of views are our reading, each one an argument. D, in seconds, belongs to the index's draw `pair`.
Ablations: `same_frame` (D = 0), `dense: false`, `predictor: identity`, and a range of D (`ranges_s` of the draw).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.crops import LOCAL, ClipCropArgs, check_sizes, global_recipes
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.blocks.predictor import Identity, TokenPredictor, Tokens
from components.pretrain.blocks.prototype_loss import Scores, Targets, row_loss, view_pair_loss
from components.pretrain.blocks.self_distillation import (
    DistillationArgs,
    check_warmup,
    last_layers,
    make_teacher,
    teacher_temperature,
    tokens,
    view_first,
)
from components.pretrain.method import EncoderFactory, Method, Now, StepOutput, register
from components.pretrain.plan import Crop, ViewPlan

NOW, NEXT = 0, 1  # frames of the pair, and their places in a view


@register
class NextFrame(Method):
    """Next-frame self-distillation on pairs of frames."""

    name = "next_frame"

    class Args(DistillationArgs, ClipCropArgs):
        """Published values where the sources give them, otherwise DINO's and, for patches, iBOT's."""

        global_crops: int = Field(2, ge=1, description="views cut from both frames")
        same_frame: bool = Field(False, description="D = 0: one frame in two colours, draw `frame` instead of `pair`")
        shared_photometric: bool = Field(False, description="the same colour draws for both frames of a view")
        dense: bool = Field(True, description="false: the class-token loss alone")
        cross_time: bool = Field(False, description="the class-token target comes from frame t + D, not t")
        predictor: Literal["attention", "identity"] = "attention"
        predictor_depth: int = Field(2, ge=1, description="attention blocks")
        predictor_heads: int | None = Field(None, ge=1, description="attention heads; the encoder's unless set")
        predictor_mlp_ratio: float = Field(4.0, gt=0)
        tokens: Tokens = "cls+patch"
        shared_head: bool = Field(False, description="patches go through the class token's head (then K, not K_p)")
        patch_out_dim: int = Field(8192, gt=1, description="patch prototypes K_p")
        patch_temp: float = Field(0.07, gt=0, description="teacher temperature for patches, after the warm-up")
        warmup_patch_temp: float = Field(0.04, gt=0)
        warmup_patch_temp_epochs: int = Field(30, ge=0)

        @model_validator(mode="after")
        def _some_loss(self) -> Self:
            if self.global_crops == 1 and not self.local_crops and not self.cross_time:
                raise ValueError("one global view has no other view to be compared with: set local_crops or cross_time")
            return self

    def __init__(self, args: Args, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        check_warmup("warmup_teacher_temp_epochs", args.warmup_teacher_temp_epochs, epochs)
        self.args = args
        backbone: Any = build_encoder(drop_path_rate=args.drop_path)
        check_sizes(args, backbone.patch_embed.patch_size[0])
        self.student = nn.ModuleDict({"backbone": backbone, "head": args.head(backbone.num_features)})
        heads = ["head"]
        self.centre = Centre(args.out_dim, args.centre_momentum)
        if args.dense:
            check_warmup("warmup_patch_temp_epochs", args.warmup_patch_temp_epochs, epochs)
            self.student["predictor"] = self._predictor(backbone)
            if not args.shared_head:
                self.student["patch_head"] = args.head(backbone.num_features, args.patch_out_dim)
                heads.append("patch_head")
            out_dim = args.out_dim if args.shared_head else args.patch_out_dim
            self.patch_centre = Centre(out_dim, args.centre_momentum)
        self.teacher = make_teacher(self.student, build_encoder(), tuple(heads))

    def _predictor(self, backbone: Any) -> nn.Module:
        args = self.args
        if args.predictor == "identity":
            return Identity()
        return TokenPredictor(
            backbone.num_features,
            args.global_size_px // backbone.patch_embed.patch_size[0],
            heads=args.predictor_heads or backbone.blocks[0].attn.num_heads,
            depth=args.predictor_depth,
            mlp_ratio=args.predictor_mlp_ratio,
            tokens=args.tokens,
        )

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        recipes = global_recipes(args.global_crops)
        pair = Crop(
            "global",
            args.global_size_px,
            args.global_scale,
            recipes,
            frames=(NOW, NOW if args.same_frame else NEXT),
            shared_geometry=True,
            shared_photometric=args.shared_photometric,
        )
        crops = [pair]
        if args.local_crops:
            crops.append(
                Crop("local", args.local_size_px, args.local_scale, (LOCAL,) * args.local_crops, frames=(NOW,))
            )
        draw, n_frames = ("frame", 1) if args.same_frame else ("pair", 2)
        return ViewPlan(draw, n_frames, tuple(crops), args.clip_crop())

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, backbone = self.args, self.student["backbone"]
        frame_now, frame_next = view_first(batch["global"], NOW), view_first(batch["global"], NEXT)  # (G, B, 3, S, S)

        cls, patches = tokens(backbone, frame_now)
        local = [class_tokens(backbone, view_first(batch["local"]))] if "local" in batch else []
        with torch.no_grad():
            ahead = tokens(self.teacher["backbone"], frame_next) if args.dense or args.cross_time else None
            target = ahead[0] if ahead and args.cross_time else tokens(self.teacher["backbone"], frame_now)[0]

        loss, targets = self._cls_loss(torch.cat([cls, *local]), target, now)
        terms = {"cls": loss.detach()}
        if args.dense and ahead:
            dense = self._dense_loss(cls, patches, ahead[1], now)
            terms["dense"] = dense.detach()
            loss = 0.5 * (dense + loss)
        return StepOutput(loss, terms, {"teacher_probs": targets.some(), "features": target.flatten(0, 1)})

    def _cls_loss(self, cls: Tensor, target: Tensor, now: Now) -> tuple[Tensor, Targets]:
        """DINO's loss of class tokens (G + L, B, D) against the teacher's (G, B, D), and its targets.

        Across time no pair shows the same pixels, so none is left out.
        """
        args = self.args
        with torch.no_grad():
            teacher = Scores.of(self.teacher["head"], target)
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        targets = Targets(teacher, self.centre.value, tau)
        self.centre.add_sum(*teacher.sum())
        student = Scores.of(self.student["head"], cls)
        return view_pair_loss(targets, student, args.student_temp, skip_same=not args.cross_time), targets

    def _dense_loss(self, cls: Tensor, patches: Tensor, target: Tensor, now: Now) -> Tensor:
        """Mean over views, samples and all cells of H(teacher at t + D, prediction from t); (G, B, P, D) tokens."""
        args = self.args
        head = "head" if args.shared_head else "patch_head"
        with torch.no_grad():
            teacher = Scores.of(self.teacher[head], target)
        tau = teacher_temperature(now.epoch, args.warmup_patch_temp, args.patch_temp, args.warmup_patch_temp_epochs)
        self.patch_centre.add_sum(*teacher.sum())
        predicted = self.student["predictor"](cls.flatten(0, 1), patches.flatten(0, 1))
        targets = Targets(teacher, self.patch_centre.value, tau)
        return row_loss(targets, Scores.of(self.student[head], predicted), args.student_temp)

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.centre.update()
        if self.args.dense:
            self.patch_centre.update()

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        return last_layers(self.student, now.epoch < self.args.freeze_last_layer_epochs)
