"""ODIS' machinery (arXiv:2506.05409): iBOT's student, teacher and heads with an object token, and its loss.

Pairs of views count where both show the object, so nothing is learnt from a view that lacks it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.head import Prototypes
from components.pretrain.blocks.masked_distillation import MaskedDistillation
from components.pretrain.blocks.numerics import full, no_autocast
from components.pretrain.blocks.object_tokens import ObjectToken, ObjectTokens, Readers, object_tokens, save_token
from components.pretrain.blocks.object_views import ObjectViewArgs
from components.pretrain.blocks.self_distillation import (
    check_warmup,
    teacher_probabilities,
    teacher_temperature,
    view_first,
)
from components.pretrain.blocks.teacher_objects import TeacherObjects
from components.pretrain.method import EncoderFactory, Now, StepOutput

OBJECT_LAYER = "object_last_layer"
Pairs = Literal["others", "one2one", "all2all"]


class ObjectArgs(ObjectViewArgs):
    """What ODIS adds to iBOT.

    Its own hyper-parameters were not published: these are values of the Cross-Time VidOR object run.
    """

    lambda_cls: float = Field(0.0, ge=0, description="ODIS proper leaves the image-level loss out")
    lambda_object: float = Field(1.0, ge=0)
    replace_cls: bool = Field(False, description="the object token takes the class token's place (the author's blog)")
    object_readers: Readers = Field("all", description="tokens that may read the object token; own: separate_obj_attn")
    local_objects: Literal["visible", "all"] = Field("visible", description="local views that count; all: as released")
    teacher_object_area: tuple[float, float] = Field((0.04, 0.6), description="of a teacher's object, share of a view")
    teacher_object_seeds: float = Field(0.08, gt=0, le=1, description="patches that may join LOST's seed, as a share")

    @model_validator(mode="after")
    def _layout(self) -> Self:
        if self.replace_cls and (self.lambda_cls or self.object_readers != "all"):
            raise ValueError("replace_cls leaves no class token: lambda_cls must be 0 and object_readers all")
        low, high = self.teacher_object_area
        if not 0 <= low < high <= 1:
            raise ValueError(f"teacher_object_area must rise within [0, 1], got {low} and {high}")
        return self


class ObjectDistillation(MaskedDistillation):
    """Student and teacher with an object token, its targets, and where the objects are."""

    args: ObjectArgs

    def __init__(self, args: ObjectArgs, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__(args, build_encoder, epochs)
        check_warmup(
            "pred_start_epoch + warmup_teacher_temp_epochs",
            args.pred_start_epoch + args.warmup_teacher_temp_epochs,
            epochs,
        )
        more: dict[str, nn.Module] = {}
        if not args.replace_cls:
            more["object_token"] = ObjectToken(self.student["backbone"].num_features)  # type: ignore[arg-type]
        if not args.shared_head:
            more[OBJECT_LAYER] = Prototypes(args.bottleneck_dim, args.out_dim, args.train_gain)
        self.student.update(more)
        in_teacher = {
            name: module for name, module in more.items() if name != OBJECT_LAYER or not args.shared_head_teacher
        }
        self.teacher.update({name: copy.deepcopy(module).requires_grad_(False) for name, module in in_teacher.items()})
        self.object_centre = Centre(args.out_dim, args.centre_momentum)
        self.teacher_objects = TeacherObjects(
            args.teacher_object_area, args.teacher_object_seeds, args.object_margin_patches
        )

    def look(
        self, network: nn.ModuleDict, views: Tensor, objects: Tensor | None = None, mask: Tensor | None = None
    ) -> ObjectTokens:
        """Tokens of views (V, B, 3, S, S), with objects and hidden patches (V, B, g, g) if given."""
        return object_tokens(
            network["backbone"],
            views,
            None if self.args.replace_cls else network["object_token"],  # type: ignore[arg-type]
            objects,
            readers=self.args.object_readers,
            mask=mask,
            mask_token=None if mask is None else network["mask_token"].value,  # type: ignore[arg-type]
        )

    def with_locals(self, batch: dict[str, Tensor], large: ObjectTokens) -> tuple[Tensor, Tensor]:
        """The student's class and object tokens (2 + L, B, D): those of large views, then those of small ones.

        In small views the object token reads every patch, as at test time without a box (the released code).
        """
        if "local" not in batch:
            return large.cls, large.obj
        small = self.look(self.student, view_first(batch["local"]))
        return torch.cat([large.cls, small.cls]), torch.cat([large.obj, small.obj])

    def object_logits(self, network: nn.ModuleDict, obj: Tensor) -> Tensor:
        """Logits (..., K) of object tokens (..., D)."""
        head: Any = network["head"]
        own_layer = OBJECT_LAYER in network
        return (network[OBJECT_LAYER] if own_layer else head.last_layer)(head.bottleneck(obj))

    @torch.no_grad()
    def object_targets(self, obj: Tensor, now: Now) -> Tensor:
        """The teacher's distributions (..., K) for its object tokens (..., D), which also move the centre.

        Views without an object move the centre too (the released code). The temperature is the class token's, but its
        warm-up begins at `pred_start_epoch`.
        """
        args = self.args
        logits = self.object_logits(self.teacher, obj)
        epoch = max(now.epoch - args.pred_start_epoch, 0)
        tau = teacher_temperature(epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs)
        probs = teacher_probabilities(logits, self.object_centre.value, tau)
        self.object_centre.add(logits)
        return probs

    def find_objects(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Patches of each sample's object in every crop group that the batch has: bool (V, B, g, g), views first."""
        groups: list[str] = [name for name in ("global", "local", "neighbour") if name in batch]
        given = {name: batch[f"{name}_object"][:, :, 0] for name in groups if f"{name}_object" in batch}
        if self.args.objects == "index":
            return views_first(given)
        made = self.teacher_objects(self.teacher["backbone"], batch, groups)
        if self.args.objects == "auto":
            has = torch.stack([patches.flatten(1).any(dim=1) for patches in given.values()]).any(dim=0)
            made = {name: torch.where(has[:, None, None, None], given[name], made[name]) for name in groups}
        return views_first(made)

    def student_sees(self, objects: dict[str, Tensor]) -> Tensor:
        """Which of the student's large and small views count as showing the object: bool (2 + L, B)."""
        large = visible(objects["global"])
        if "local" not in objects:
            return large
        small = visible(objects["local"])
        return torch.cat([large, small if self.args.local_objects == "visible" else large.any(0).expand_as(small)])

    def output(self, terms: dict[str, Tensor], targets: Tensor, obj: Tensor) -> StepOutput:
        """The weighted sum of terms, `lambda_<term>` each; the guards watch the teacher's object tokens."""
        loss = torch.stack([getattr(self.args, f"lambda_{name}") * term for name, term in terms.items()]).sum()
        monitors = {"teacher_probs": targets.flatten(0, 1), "features": obj.flatten(0, 1)}
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()}, monitors)

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.object_centre.update()

    def extra_files(self, folder: Path) -> list[Path]:
        """`object_token.safetensors` and how to use it; nothing where the class token is the object token."""
        if self.args.replace_cls:
            return []
        return save_token(folder, self.teacher["object_token"], self.args.object_readers)  # type: ignore[arg-type]


def visible(objects: Tensor) -> Tensor:
    """Which views show the object: bool (V, B) of patches (V, B, g, g)."""
    return objects.flatten(2).any(dim=2)


def views_first(groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """(B, V, ...) tensors as (V, B, ...)."""
    return {name: group.transpose(0, 1) for name, group in groups.items()}


def object_pair_loss(probs: Tensor, logits: Tensor, temperature: float, valid: Tensor, pairs: Pairs) -> Tensor:
    """Mean over pairs of a teacher and a student view of mean over samples of valid * H(p, softmax(z / tau)).

    Samples whose pair does not count stay in the mean, with 0, so that a sample's weight does not depend on its batch.

    Args:
        probs: (T, B, K) teacher distributions.
        logits: (S, B, K) student logits.
        valid: bool (T, S, B), pairs of views that both show the object.
        pairs: `others`: all but a view with itself (equal index); `one2one`: equal index only; `all2all`.
    """
    with no_autocast(logits):
        log_probs = (full(logits) / temperature).log_softmax(dim=-1)
        entropies = -torch.einsum("tbk,sbk->tsb", full(probs), log_probs)
    each = (entropies * valid).mean(dim=-1)  # (T, S)
    same = torch.eye(*each.shape, dtype=torch.bool, device=each.device)
    return {"others": each[~same], "one2one": each[same], "all2all": each.flatten()}[pairs].mean()


def both_see(teacher: Tensor, student: Tensor) -> Tensor:
    """Pairs of views that both show the object: bool (T, S, B) of (T, B) and (S, B)."""
    return teacher[:, None] & student[None]
