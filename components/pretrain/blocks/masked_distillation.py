"""iBOT's machinery (Zhou et al. 2022, arXiv:2111.07832): what is shared by all methods that distil hidden patches too.

The teacher sees whole views, the student the same views with patches hidden. At hidden patches the student must give
the teacher's distribution, just as its class token must give that of the other view's (section 3.2, eq. 2 and 3).

Logits over K prototypes are formed for hidden patches only, on both sides: 15 % of all at the published masks. The
patch centre still is the mean over all patches, hidden or not, as in the paper: prototypes are linear in the unit
vectors before them, so the mean logit is the logit of the mean vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.crops import CropArgs, Share, check_sizes
from components.pretrain.blocks.head import Prototypes
from components.pretrain.blocks.last_block import class_tokens, hidden_tokens
from components.pretrain.blocks.masked_vit import MaskToken
from components.pretrain.blocks.numerics import full, no_autocast
from components.pretrain.blocks.pictures import label_frames
from components.pretrain.blocks.self_distillation import (
    DistillationArgs,
    check_warmup,
    last_layers,
    make_teacher,
    teacher_probabilities,
    teacher_temperature,
    tokens,
)
from components.pretrain.method import EncoderFactory, Method, Now
from components.pretrain.plan import BlockMasks

PICTURES = 8  # views shown at the end of a run
PATCH_LAYER = "patch_last_layer"  # holds "last_layer": it rests in the first epoch as the other prototypes do


class MaskedArgs(DistillationArgs, CropArgs):
    """Values of iBOT's published ViT-S/16 run (its README; the code's own defaults do not reproduce the paper)."""

    out_dim: int = Field(8192, gt=1, description="prototypes K of the class token")
    patch_out_dim: int | None = Field(None, gt=1, description="prototypes of patches; out_dim unless set")
    shared_head: bool = Field(True, description="student: patches use the class token's prototypes")
    shared_head_teacher: bool = Field(True, description="the same for the teacher; true, with the other false, is semi")
    compat: bool = Field(False, description="semi-shared: the teacher's prototypes start as the student's for patches")
    teacher_temp: float = Field(0.07, gt=0, description="after the warm-up")
    warmup_teacher_temp_epochs: int = Field(30, ge=0)
    patch_temp: float = Field(0.07, gt=0, description="teacher temperature for patches, after the warm-up")
    warmup_patch_temp: float = Field(0.04, gt=0)
    warmup_patch_temp_epochs: int = Field(30, ge=0, description="counted from pred_start_epoch")
    patch_centre_momentum: float = Field(0.9, ge=0, le=1)
    mask_ratios: tuple[float, ...] = Field(
        (0.0, 0.3), min_length=1, description="one is drawn: shares of hidden patches"
    )
    mask_variations: tuple[float, ...] = Field((0.0, 0.2), min_length=1, description="uniform noise on each ratio, +-")
    mask_shape: Literal["block", "random"] = "block"
    mask_per_image: bool = Field(False, description="one ratio for both views (paper) instead of one a view (code)")
    pred_start_epoch: int = Field(0, ge=0, description="nothing is hidden before this epoch")
    lambda_cls: float = Field(1.0, ge=0)
    lambda_patch: float = Field(1.0, ge=0)
    global_scale: tuple[Share, Share] = (0.25, 1.0)
    local_scale: tuple[Share, Share] = (0.05, 0.25)
    local_crops: int = Field(10, ge=0, description="local views a sample")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.shared_head and not self.shared_head_teacher:
            raise ValueError("shared_head needs shared_head_teacher: the teacher follows the student's layers by name")
        if self.shared_head_teacher and self.patch_out_dim not in (None, self.out_dim):
            raise ValueError(f"a shared head has one number of prototypes, got {self.out_dim} and {self.patch_out_dim}")
        return self

    @model_validator(mode="after")
    def _masks_fit(self) -> Self:
        self.masks()  # refuses ratios and variations that do not fit
        return self

    def masks(self) -> BlockMasks:
        """The masks of a crop group, as the plan states them."""
        return BlockMasks(
            ratios=self.mask_ratios,
            variations=self.mask_variations,
            shape=self.mask_shape,
            start_epoch=self.pred_start_epoch,
            per_image=self.mask_per_image,
        )


class Hidden(NamedTuple):
    """Which patches are hidden, as rows of a flattened (..., P, D).

    Attributes:
        rows: (M,) indices.
        weights: (M,), summing to the share of views that hide anything: each hidden patch counts 1 / (number of views
            x hidden patches of its view). Views that hide nothing stay in the mean, with 0 (the released code).
    """

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Hidden:
        """From a mask (..., rows, columns), True where a patch is hidden."""
        flat = mask.flatten(-2)  # (..., P)
        counts = flat.sum(dim=-1, keepdim=True).clamp_min(1)
        weights = counts.double().mul(counts.numel()).reciprocal().expand(flat.shape)
        rows = flat.flatten().nonzero().squeeze(1)
        return cls(rows, weights.flatten()[rows])

    def take(self, patches: Tensor) -> Tensor:
        """The hidden ones (M, D) of all patches (..., P, D)."""
        return patches.flatten(0, -2)[self.rows]

    def loss(self, probs: Tensor, logits: Tensor, temperature: float) -> Tensor:
        """Mean over views of the mean over their hidden patches of H(p, softmax(z / tau)); (M, K) both (eq. 2)."""
        with no_autocast(logits):
            rows = F.cross_entropy(full(logits) / temperature, full(probs), reduction="none")
            return (rows * self.weights.to(rows)).sum()


class MaskedDistillation(Method):
    """Student, teacher, heads and centres of iBOT; what is compared with what is each method's own."""

    args: MaskedArgs

    def __init__(self, args: MaskedArgs, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        check_warmup("warmup_teacher_temp_epochs", args.warmup_teacher_temp_epochs, epochs)
        check_warmup("pred_start_epoch + warmup_patch_temp_epochs", self._patch_warmup_end(args), epochs)
        self.args = args
        backbone: Any = build_encoder(drop_path_rate=args.drop_path)
        check_sizes(args, backbone.patch_embed.patch_size[0])
        self.student = nn.ModuleDict({"backbone": backbone, "head": args.head(backbone.num_features)})
        heads = ["head"]
        if not args.shared_head:
            out_dim = args.patch_out_dim or args.out_dim
            self.student[PATCH_LAYER] = Prototypes(args.bottleneck_dim, out_dim, args.train_gain)
        if not args.shared_head_teacher:
            heads.append(PATCH_LAYER)
        self.student["mask_token"] = MaskToken(backbone.num_features)
        self.teacher = make_teacher(self.student, build_encoder(), tuple(heads))
        if args.compat and args.shared_head_teacher and not args.shared_head:
            prototypes: Any = self.teacher["head"]
            prototypes.last_layer.load_state_dict(self.student[PATCH_LAYER].state_dict())
        self.centre = Centre(args.out_dim, args.centre_momentum)
        self.patch_centre = Centre(args.patch_out_dim or args.out_dim, args.patch_centre_momentum)

    @staticmethod
    def _patch_warmup_end(args: MaskedArgs) -> int:
        return args.pred_start_epoch + args.warmup_patch_temp_epochs

    def patch_logits(self, network: nn.ModuleDict, bottleneck: Tensor) -> Tensor:
        """Logits (..., K) of unit vectors before the prototypes: the patches' own where the network has them."""
        if PATCH_LAYER in network:
            return network[PATCH_LAYER](bottleneck)
        head: Any = network["head"]
        return head.last_layer(bottleneck)

    def student_tokens(self, views: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Class tokens (..., D) of views (..., 3, S, S) and tokens (M, D) of their M hidden patches, by the student."""
        backbone: Any = self.student["backbone"]
        token: Any = self.student["mask_token"]
        if mask is None:
            cls = class_tokens(backbone, views)
            return cls, cls.new_empty(0, cls.shape[-1])
        return hidden_tokens(backbone, views, mask, token.value)

    @torch.no_grad()
    def cls_targets(self, cls: Tensor, now: Now) -> Tensor:
        """The teacher's distributions (..., K) for its class tokens (..., D), which also move the centre."""
        args = self.args
        logits = self.teacher["head"](cls)
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        probs = teacher_probabilities(logits, self.centre.value, tau)
        self.centre.add(logits)
        return probs

    @torch.no_grad()
    def patch_bottleneck(self, patches: Tensor) -> Tensor:
        """The teacher's unit vectors (..., P, d) of all its patches (..., P, D), which also move the patch centre."""
        head: Any = self.teacher["head"]
        vectors = head.bottleneck(patches)
        rows = vectors.flatten(0, -2)
        with no_autocast(rows):
            total = self.patch_logits(self.teacher, full(rows).sum(dim=0))
        self.patch_centre.add_sum(total, len(rows))
        return vectors

    @torch.no_grad()
    def patch_targets(self, bottleneck: Tensor, now: Now) -> Tensor:
        """The teacher's distributions (M, K) for some patches' unit vectors (M, d).

        The temperature's warm-up begins with the prediction, at `pred_start_epoch`; until then it stands at its start.
        """
        args = self.args
        epoch = max(now.epoch - args.pred_start_epoch, 0)
        tau = teacher_temperature(epoch, args.warmup_patch_temp, args.patch_temp, args.warmup_patch_temp_epochs)
        return teacher_probabilities(self.patch_logits(self.teacher, bottleneck), self.patch_centre.value, tau)

    def hidden_loss(self, bottleneck: Tensor, rows: Tensor, hidden: Hidden, now: Now) -> Tensor:
        """L_mim: the teacher's unit vectors (..., P, d) at the hidden patches against the student's tokens (M, D)."""
        probs = self.patch_targets(hidden.take(bottleneck), now)
        head: Any = self.student["head"]
        logits = self.patch_logits(self.student, head.bottleneck(rows))
        return hidden.loss(probs, logits, self.args.student_temp)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """Some large views, and beside each its patches in the colours of the teacher's likeliest prototypes."""
        views, head = batch["global"][:PICTURES, 0, 0], cast(Any, self.teacher["head"])
        _, patches = tokens(self.teacher["backbone"], views)
        labels = self.patch_targets(head.bottleneck(patches), now).argmax(dim=-1)
        return {"patch_prototypes": label_frames(views.float().cpu(), labels.cpu())}

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.centre.update()
        self.patch_centre.update()

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        return last_layers(self.student, now.epoch < self.args.freeze_last_layer_epochs)
