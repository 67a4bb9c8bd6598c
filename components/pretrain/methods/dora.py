"""DoRA: discover and track (Venkataramanan et al., ICLR 2024, arXiv:2310.08584).

From a clip of T frames the teacher's own attention picks k objects in the first frame and follows them through the
others (`blocks/tracker.py`). The student sees each frame k times, each time one object alone, and local crops; the
teacher sees the whole frame. Class tokens are compared at equal frame, as in DINO:

    L_obj(j, t) = H(teacher(X_t), student(X_t masked to object j))
    L_loc(t)    = mean over local crops of H(teacher(X_t), student(crop of X_t))
    loss        = mean over objects j and frames t of (L_obj(j, t) + L_loc(t)) / 2

Where text and released code differ: masks are binary and keep the object (code; the paper's figure draws them soft),
and the local loss is there (code only). Slips of the released code are off unless asked for:
  `compat`: local crop 0 is left out, and sums carry over from object to object, which weighs objects 0, 1, 2 by
            1.1406 : 1.125 : 1 at T = 8 and the whole loss by 1.089;
  `threshold: batch`: one threshold for all clips of a batch, so masks depend on the other clips in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from components.common.errors import StageError
from components.common.vit import IMAGENET_MEAN, IMAGENET_STD, tokens_and_attention
from components.pretrain.blocks.centre import Centre
from components.pretrain.blocks.crops import LOCAL, ClipCropArgs, check_sizes
from components.pretrain.blocks.last_block import class_tokens
from components.pretrain.blocks.prototype_loss import Scores, Targets, cross_entropies
from components.pretrain.blocks.self_distillation import (
    DistillationArgs,
    check_warmup,
    last_layers,
    make_teacher,
    teacher_temperature,
)
from components.pretrain.blocks.tracker import TeacherView, Threshold, apply_masks, draw_heads, track
from components.pretrain.method import EncoderFactory, Method, Now, StepOutput, register
from components.pretrain.plan import Crop, Photometric, ViewPlan


@register
class DoRA(Method):
    """DINO on clips, with objects discovered and tracked by the teacher."""

    name = "dora"

    class Args(DistillationArgs, ClipCropArgs):
        """Values of the published command; `local_scale` etc. as in its loader. The stride belongs to the index."""

        n_frames: int = Field(8, ge=1, description="frames T of a clip, one second apart in the paper")
        n_objects: int = Field(3, ge=1, description="objects k, each from one attention head")
        sinkhorn_epsilon: float = Field(0.05, gt=0)
        sinkhorn_iterations: int = Field(30, ge=1)
        threshold: Threshold = Field("map", description="mean that a mask's patches exceed; `batch` as released")
        compat: bool = Field(False, description="reproduce the slips of the released loss")
        local_size_px: int = Field(112, gt=0)
        local_crops: int = Field(6, ge=0, description="per frame")
        local_flip_p: float = Field(0.0, ge=0, le=1, description="the released loader does not flip local crops")

        @model_validator(mode="after")
        def _locals_left(self) -> Self:
            if self.compat and self.local_crops == 1:
                raise ValueError(
                    "compat leaves out local crop 0, so local_crops = 1 leaves none: take 0, or 2 and more"
                )
            return self

    def __init__(self, args: Args, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        check_warmup("warmup_teacher_temp_epochs", args.warmup_teacher_temp_epochs, epochs)
        self.args = args
        backbone: Any = build_encoder(drop_path_rate=args.drop_path)
        check_sizes(args, backbone.patch_embed.patch_size[0])
        self.n_heads: int = backbone.blocks[-1].attn.num_heads
        if args.n_objects > self.n_heads or len(backbone.blocks) < 2:
            what = f"n_objects = {args.n_objects} needs as many heads ({self.n_heads}) and two blocks or more"
            raise StageError(what, where="pretrain.dora", do="lower args.n_objects or change encoder.model_args")
        self.student = nn.ModuleDict({"backbone": backbone, "head": args.head(backbone.num_features)})
        self.teacher = make_teacher(self.student, build_encoder())
        self.centre = Centre(args.out_dim, args.centre_momentum)

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        frames = tuple(range(args.n_frames))
        view = (Photometric(blur_p=0.1),)  # one box and flip for the clip, colours drawn per frame, no solarisation
        crops = [Crop("global", args.global_size_px, args.global_scale, view, frames)]
        if args.local_crops:
            recipes = (LOCAL,) * args.local_crops
            local = Crop(
                "local",
                args.local_size_px,
                args.local_scale,
                recipes,
                frames,
                shared_geometry=False,
                flip_p=args.local_flip_p,
            )
            crops.append(local)
        return ViewPlan("clip", args.n_frames, tuple(crops), args.clip_crop())

    def forward(self, batch: dict[str, Tensor], now: Now) -> StepOutput:
        args, frames = self.args, batch["global"][:, 0]  # (B, T, 3, S, S)
        cls, view = self._teacher_view(frames)
        with torch.no_grad():
            teacher = Scores.of(self.teacher["head"], cls)  # (B, T) rows over K prototypes
        tau = teacher_temperature(
            now.epoch, args.warmup_teacher_temp, args.teacher_temp, args.warmup_teacher_temp_epochs
        )
        targets = Targets(teacher, self.centre.value, tau)
        self.centre.add_sum(*teacher.sum())

        masked = apply_masks(frames, self._track(view, now), self._grid(frames))  # (k, B, T, 3, S, S)
        weights = object_weights(args.n_objects, args.n_frames, compat=args.compat)
        loss, objects = frame_losses(targets, self._student(masked), args.student_temp, weights)
        terms = {"object": objects.mean()}
        if "local" in batch:
            crops = batch["local"].transpose(0, 1)[int(args.compat) :]  # (L, B, T, 3, s, s)
            same = weights.mean().expand(len(crops))  # each crop's loss comes once with every object
            local_loss, local = frame_losses(targets, self._student(crops), args.student_temp, same)
            terms["local"] = local.mean()
            loss = 0.5 * (loss + local_loss)
        return StepOutput(loss, terms, {"teacher_probs": targets.some(), "features": cls.flatten(0, 1)})

    @torch.no_grad()
    def _teacher_view(self, frames: Tensor) -> tuple[Tensor, TeacherView]:
        """Class tokens (B, T, D) and what the tracker needs, in one pass over B * T frames."""
        backbone: Any = self.teacher["backbone"]
        found = tokens_and_attention(backbone, frames.flatten(0, 1))
        all_tokens, attention, queries, keys = (x.unflatten(0, frames.shape[:2]) for x in found)
        patches = all_tokens[:, :, backbone.num_prefix_tokens :]
        return all_tokens[:, :, 0], TeacherView(patches, attention, queries, keys)

    def _track(self, view: TeacherView, now: Now) -> Tensor:
        args = self.args
        heads = draw_heads(self.n_heads, args.n_objects, now.generator)
        return track(
            view,
            heads,
            epsilon=args.sinkhorn_epsilon,
            n_iterations=args.sinkhorn_iterations,
            threshold=args.threshold,
        )

    def _student(self, images: Tensor) -> Scores:
        """Scores over K prototypes of images (..., 3, S, S), all in one pass."""
        return Scores.of(self.student["head"], class_tokens(self.student["backbone"], images))

    def _grid(self, frames: Tensor) -> tuple[int, int]:
        backbone: Any = self.teacher["backbone"]
        return backbone.patch_embed.dynamic_feat_size(frames.shape[-2:])

    def after_step(self, now: Now) -> None:
        super().after_step(now)
        self.centre.update()

    def frozen_parameters(self, now: Now) -> Iterator[nn.Parameter]:
        return last_layers(self.student, now.epoch < self.args.freeze_last_layer_epochs)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], now: Now) -> dict[str, list[Any]]:
        """The first clip, frame by frame: the whole frame, then what the student sees of each object."""
        frames = batch["global"][:1, 0]
        masked = apply_masks(frames, self._track(self._teacher_view(frames)[1], now), self._grid(frames))
        panels = torch.cat([frames[None], masked])[:, 0].float().cpu()  # (1 + k, T, 3, S, S)
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        rows = torch.cat(list((panels * std + mean).clamp(0, 1)), dim=-1)  # (T, 3, S, (1 + k) S)
        pixels = (rows * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return {"tracked_objects": list(pixels)}


def frame_losses(targets: Targets, student: Scores, temperature: float, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy at equal frame of (B, T) targets with V views of the same frames (V, B, T).

    Returns:
        The mean over views, samples and frames of weights (V,) times it; and its mean over samples, (V, T), detached.
    """
    one = targets._replace(scores=targets.scores._replace(vectors=targets.scores.vectors[None]))
    views, samples, frames = student.vectors.shape[:3]
    loss, each = cross_entropies(one, student, temperature, weights[:, None] / (views * samples * frames))
    return loss, each[0].unflatten(1, (samples, frames)).mean(dim=1)


def object_weights(n_objects: int, n_frames: int, *, compat: bool) -> Tensor:
    """Weight of each object in the mean: 1, or under `compat` the sum of 1/T^i over the objects from it to the last.

    The released code adds up frames and divides by T without clearing the sum between objects, so object j comes
    again, divided by T once more, with every later object.
    """
    if not compat:
        return torch.ones(n_objects, dtype=torch.float64)
    powers = torch.tensor([float(n_frames) ** -i for i in range(n_objects)], dtype=torch.float64)
    return powers.cumsum(0).flip(0)
