"""T-CoRe: when the future becomes the past (Liu et al., CVPR 2025, arXiv:2503.15096).

DINOv2's losses on the current frame of a clip, with masked patches filled in from a past and a future frame:

    P = student(current, masked)      a_p, a_f = student(past), student(future), no gradient
    Y_p = matching(P, a_p)            Y_f = matching(P, a_f)            (`blocks/patch_matching.py`)
    s_p, s_f = head(Y_p), head(Y_f)   at the masked patches
    L_pt = mean over crops of the mean over masked patches of H(teacher patch, s_p);   L_ft with s_f
    L_pf = mean over masked patches and prototypes of (s_p - s_f)^2
    loss = L_DINO + 0.1 L_koleo + 0.8 L_pt + 0.8 L_ft + 20 L_pf

L_DINO is DINO's loss of the class tokens. One head serves class tokens and patches; each has a centre of its own.
Unmasked crops need neither past nor future, so only masked ones are matched: half of the released work, equal losses.

Where the released code and what it says of itself differ, or a number would depend on how a batch is shared out:
  weights: 0.8, 0.8, 20 of the training script; the configuration file has 1, 1, 1 (`w_past`, `w_future`, `w_agree`);
  L_pf: the masked patches of the whole batch are counted, over micro-batches and processes; the release counts a GPU's;
  L_koleo: neighbours within `koleo_group` samples, which one GPU held (see `blocks/koleo.py`);
  `aux_drop_path`: stochastic depth acts on past and future too, as released;
  `released_lr`: rates as the published weights probably had them: a bug gave all but the matching module the plain
    rate, without layer-wise decay, the patch embedding's 0.2, or frozen prototypes in the first epoch;
  `released_decay`: a slip of names lets weight decay reach the biases of the matching module's attention.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from components.common.vit import uniform_drop_path
from components.pretrain import parallel
from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.crops import CropArgs, Share, check_sizes
from components.pretrain.blocks.koleo import koleo
from components.pretrain.blocks.last_block import class_tokens, hidden_tokens
from components.pretrain.blocks.masked_vit import MaskToken, masked_tokens
from components.pretrain.blocks.patch_matching import PatchMatching, draw_matches
from components.pretrain.blocks.prototype_loss import Scores, Targets, cross_entropies, disagreement, view_pair_loss
from components.pretrain.blocks.self_distillation import (
    DistillationArgs,
    check_warmup,
    make_teacher,
    teacher_temperature,
    tokens,
    view_first,
)
from components.pretrain.method import EncoderFactory, Method, Now, StepOutput, register
from components.pretrain.plan import Crop, Photometric, Sandwich, StratifiedMasks, ViewPlan

PAST, CURRENT, FUTURE = 0, 1, 2  # frames of the sandwich
# DINOv2's blur takes its probability for that of doing nothing, so 1.0, 0.1 and 0.5 act as 0.0, 0.9 and 0.5.
WHOLE_VIEWS = (Photometric(blur_p=0.0), Photometric(blur_p=0.9, blur_taps=9, solarise_p=0.2))
LOCAL_VIEW = Photometric(blur_p=0.5, blur_taps=9)


@register
class TCoRe(Method):
    """Self-distillation on a frame whose masked patches are found again before and after it."""

    name = "tcore"

    class Args(DistillationArgs, CropArgs):
        """Values of the training script for ViT-S/16; frames are shares of a segment's length."""

        teacher_temp: float = Field(0.07, gt=0, description="after the warm-up")
        warmup_teacher_temp_epochs: int = Field(30, ge=0)
        drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth, equal in all blocks of the student")
        global_scale: tuple[Share, Share] = (0.32, 1.0)
        local_scale: tuple[Share, Share] = (0.05, 0.32)
        span: str = Field("span", description="the index's draw of segments or videos")
        past: tuple[float, float] = Field((0.15, 0.25), description="shares of the span that the past frame lies back")
        current: tuple[float, float] = Field((0.3, 0.7), description="where in the span the current frame lies")
        future: tuple[float, float] = Field((0.15, 0.25), description="shares that the future frame lies ahead")
        mask_share: float = Field(0.5, gt=0, le=1, description="share of the global views that are masked")
        mask_ratio: tuple[Share, Share] = Field((0.1, 0.5), description="share of a masked view's patches")
        matching_heads: int = Field(16, ge=1, description="attention heads of the patch matching module")
        matching_gain: float = Field(4.0, gt=0, description="weight of the other frame against the patch itself")
        w_past: float = Field(0.8, ge=0)
        w_future: float = Field(0.8, ge=0)
        w_agree: float = Field(20.0, ge=0)
        w_koleo: float = Field(0.1, ge=0)
        koleo_group: int = Field(64, ge=2, description="samples among which a nearest neighbour is sought")
        aux_drop_path: bool = Field(True, description="stochastic depth on past and future, as released")
        layer_decay: float = Field(0.9, gt=0, le=1, description="learning rate of a block against the one above")
        patch_embed_lr: float = Field(0.2, gt=0, description="further factor for the patch embedding")
        matching_lr: float = Field(0.1, gt=0, description="factor for the patch matching module")
        released_lr: bool = Field(False, description="rates as overwritten by the bug of the released code")
        released_decay: bool = Field(False, description="weight decay on the matching module's attention biases")

    def __init__(self, args: Args, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        check_warmup("warmup_teacher_temp_epochs", args.warmup_teacher_temp_epochs, epochs)
        self.args = args
        backbone: Any = build_encoder(drop_path_rate=args.drop_path)
        uniform_drop_path(backbone, args.drop_path)
        check_sizes(args, backbone.patch_embed.patch_size[0])
        self.depth = len(backbone.blocks)
        dim: int = backbone.num_features
        self.student = nn.ModuleDict(
            {
                "backbone": backbone,
                "head": args.head(dim),
                "mask_token": MaskToken(dim),
                "matching": PatchMatching(dim, heads=args.matching_heads, gain=args.matching_gain),
            }
        )
        self.teacher = make_teacher(self.student, build_encoder())
        self.centre = Centre(args.out_dim, args.centre_momentum)
        self.patch_centre = Centre(args.out_dim, args.centre_momentum)

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        size, scale = args.global_size_px, args.global_scale
        masks = StratifiedMasks(args.mask_share, args.mask_ratio)
        crops = [
            Crop("global", size, scale, WHOLE_VIEWS, (CURRENT,), flip_p=0.0, mask=masks),
            Crop("around", size, (1.0, 1.0), WHOLE_VIEWS, (PAST, FUTURE), flip_p=0.0, whole=True),
        ]
        if args.local_crops:
            recipes = (LOCAL_VIEW,) * args.local_crops
            crops.append(Crop("local", args.local_size_px, args.local_scale, recipes, (CURRENT,)))
        timing = Sandwich(args.past, args.current, args.future)
        return ViewPlan(args.span, timing.n_frames, tuple(crops), timing=timing, patch_px=patch_px)

    @torch.no_grad()
    def before_step(self, micro_batches: list[dict[str, Tensor]], now: Now) -> list[dict[str, Tensor]]:
        """Lay into each micro-batch how many masked patches one of them has on average, over all processes: (B,)."""
        masks = [batch["global_mask"] for batch in micro_batches]
        n_masked = parallel.mean(torch.stack([mask.sum() for mask in masks]).double().mean())
        return [
            batch | {"n_masked": n_masked.expand(len(mask))} for batch, mask in zip(micro_batches, masks, strict=True)
        ]

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args = self.args
        current = view_first(batch["global"])  # (2, B, 3, S, S)
        mask = view_first(batch["global_mask"])  # (2, B, rows, columns)
        hidden = mask.flatten(2)  # (2, B, P)

        with torch.no_grad():
            target, target_patches = hidden_tokens(self.teacher["backbone"], current, mask, None)
            targets = self._targets(target, self.centre, now)  # (2, B) rows over K prototypes
            patch_targets = self._targets(target_patches[None], self.patch_centre, now)  # (1, M)

        cls, patches = self._masked(current, mask)
        local = [class_tokens(self.student["backbone"], view_first(batch["local"]))] if "local" in batch else []
        filled = self._filled_in(patches, batch["around"].transpose(0, 1), hidden)  # (2, M, D), by past and future

        head: Any = self.student["head"]
        rows = head.bottleneck(filled)
        dino = view_pair_loss(targets, Scores.of(head, torch.cat([cls, *local])), args.student_temp)
        spread = koleo(cls, args.koleo_group if self.training else cls.shape[1]).sum()
        weights = patch_weights(hidden)  # (M,)
        by_frame = torch.tensor([args.w_past, args.w_future], dtype=weights.dtype, device=weights.device)
        patches_said = Scores(rows, head.last_layer.direction, head.last_layer.gain)
        patch_loss, entropies = cross_entropies(
            patch_targets, patches_said, args.student_temp, by_frame[:, None] * weights
        )
        counted = batch["n_masked"][0] if "n_masked" in batch else hidden.sum()
        apart = disagreement(rows[0], rows[1], patches_said)
        agree = apart / counted.clamp(min=1).to(apart)

        loss = dino + args.w_koleo * spread + patch_loss + args.w_agree * agree
        past, future = (entropies[0] * weights).sum(dim=-1)
        terms = {"dino": dino, "koleo": spread, "past": past, "future": future, "agree": agree}
        monitors = {"teacher_probs": targets.some(), "features": target.flatten(0, 1)}
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()}, monitors)

    def _targets(self, features: Tensor, centre: Centre, now: Now) -> Targets:
        """What the teacher says of its tokens (T, ..., D); it counts for the centre of the next step."""
        args = self.args
        warmup = args.warmup_teacher_temp_epochs * now.steps_per_epoch  # rises at every step, as DINOv2's
        tau = teacher_temperature(now.step, args.warmup_teacher_temp, args.teacher_temp, warmup)
        scores = Scores.of(self.teacher["head"], features)
        centre.add_sum(*scores.sum())
        return Targets(scores, centre.value, tau)

    def _masked(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The student's class tokens (..., D) and patch tokens (..., P, D) of images (..., 3, S, S) seen in part."""
        token: Any = self.student["mask_token"].value
        return masked_tokens(self.student["backbone"], images, mask, token)

    def _filled_in(self, patches: Tensor, around: Tensor, hidden: Tensor) -> Tensor:
        """The M masked patches as the past frame fills them in, and as the future one does: (2, M, D).

        View v of the current frame is matched with view v of the others.

        Args:
            patches: student tokens (2, B, P, D) of the masked views.
            around: (2, B, 2, 3, S, S), past and future.
            hidden: (2, B, P), M of them True.
        """
        chosen = masked_first(hidden.flatten(0, 1))  # n crops
        other = self._seen(around.flatten(0, 1)[chosen])  # (n, 2, P, D)
        query = patches.flatten(0, 1)[chosen][:, None].expand_as(other)
        filled = self.student["matching"](query.flatten(0, 1), other.flatten(0, 1)).unflatten(0, (-1, 2))
        return filled.transpose(0, 1)[:, hidden.flatten(0, 1)[chosen]]

    @torch.no_grad()
    def _seen(self, images: Tensor) -> Tensor:
        """The student's patch tokens (..., P, D) of unmasked images (..., 3, S, S), with or without dropped paths."""
        backbone = self.student["backbone"]
        backbone.train(self.training and self.args.aux_drop_path)
        found = tokens(backbone, images)[1]
        backbone.train(self.training)
        return found

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.centre.update()
        self.patch_centre.update()

    def rest_epochs(self, name: str) -> int:
        """The prototypes stand still for an epoch by a rate of 0, as DINOv2's; their moments are gathered meanwhile."""
        return 0 if self.args.released_lr or "last_layer" not in name else self.args.freeze_last_layer_epochs

    def lr_scale(self, name: str) -> float:
        """DINOv2's layer-wise decay: tokens and embeddings below block 0, final norm and head above the last block."""
        args = self.args
        module, _, inner = name.partition(".")
        if module == "matching":
            return args.matching_lr
        if args.released_lr or module == "head" or inner.startswith("norm."):
            return 1.0
        if inner.startswith("blocks."):
            return args.layer_decay ** (self.depth - int(inner.split(".")[1]))
        further = args.patch_embed_lr if inner.startswith("patch_embed.") else 1.0
        return further * args.layer_decay ** (self.depth + 1)

    def end_lr_scale(self, name: str) -> float:
        """The matching module's rate starts at a share of the others' and ends where they do."""
        return 1.0 if name.startswith("matching.") else self.lr_scale(name)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """`released_decay`: also the biases that attention keeps as `in_proj_bias`, which no rule of names excludes."""
        slipped = self.args.released_decay and name.endswith("in_proj_bias")
        return slipped or super().decays(name, parameter)

    def clip_group(self, name: str) -> str:
        """Backbone (the mask token is one of its own), head and matching module each have a norm."""
        module = super().clip_group(name)
        return "backbone" if module == "mask_token" else module

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """Masked patches of the first masked view, and where in the past and future frame each one looks."""
        mask = view_first(batch["global_mask"])
        if not mask.any():
            return {}
        view, sample = mask.flatten(2).any(-1).nonzero()[0].tolist()
        current, around = batch["global"][sample, view, 0], batch["around"][sample, view]
        hidden = mask[view, sample]
        matching: Any = self.student["matching"]
        _, patches = self._masked(current[None], hidden[None])
        attention = matching.attention(patches.expand(2, -1, -1), self._seen(around))
        return {"patch_matching": draw_matches(current, around, hidden, attention)}


def masked_first(hidden: Tensor) -> Tensor:
    """Indices of all crops with masked patches, in order, then of as many others as make a sixteenth of the crops full.

    The crops' share of a process varies from step to step; so a compiled encoder still meets few sizes, and none of 0.

    Args:
        hidden: bool (crops, P).
    """
    masked = hidden.any(dim=-1)
    unit = max(len(masked) // 16, 1)
    wanted = max(-(-int(masked.sum()) // unit), 1) * unit
    return masked.byte().argsort(descending=True, stable=True)[:wanted]


def patch_weights(hidden: Tensor) -> Tensor:
    """Weight of each masked patch in a mean over crops of means over masked patches: (V, B, P) -> (M,).

    Crops without a mask count as zero loss, as released.
    """
    counts = hidden.sum(dim=-1, keepdim=True, dtype=torch.float64).clamp_min(1)
    return (1 / (counts * hidden[..., 0].numel())).expand(hidden.shape)[hidden]
