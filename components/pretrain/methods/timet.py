"""TimeT: time-tuning dense features (Salehi et al., ICCV 2023, arXiv:2308.11796).

An encoder that has learnt from images goes on with video: what a patch is must not change from frame to frame. From
each clip come T frames in order, 1 ... T.

    1. assign   the patches of all first frames are shared out between K prototypes:
                Q_1 = Sinkhorn(cos(phi(f_1), M) / epsilon), over the whole batch, without gradient
    2. forward  the feature forwarder carries Q_1 from frame to frame, by the likeness of the encoder's patches, to Q_T
    3. tune     the last frame's patches must say by themselves what was carried to them:
                loss = mean over clips and patches i of -log softmax(cos(phi(f_T,i), M) / tau)[argmax_k Q_T,i,k]

Only the last two blocks, the head phi and the prototypes M learn, from the last frame alone; head and prototypes are
thrown away. So the first blocks are passed without gradient, and nothing but the last frame's tail keeps activations:
one pass of the encoder a frame, where the released code takes four (docs/methods/timet.md).

It goes on from an encoder that has learnt, and is refused without one unless all blocks learn. Settings follow the two
released codebases, which agree, where the text could not be had. Options, off by default as in the authors' README: an
EMA teacher that assigns (`ema`), a queue of earlier patches in Sinkhorn (`queue`), the attention's foreground
(`foreground`). `compat` reproduces the slips of the released loader, and of its EMA, whose weights are swapped.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.common.config import Params
from components.common.errors import StageError
from components.common.foreground import foreground
from components.common.vit import class_attention
from components.pretrain.blocks.clustering import FeatureQueue, UnitPrototypes, draw_patches, patch_head
from components.pretrain.blocks.crops import Share, check_size
from components.pretrain.blocks.feature_forwarder import FeatureForwarder
from components.pretrain.blocks.numerics import full, no_autocast
from components.pretrain.blocks.pictures import label_frames
from components.pretrain.blocks.self_distillation import make_teacher
from components.pretrain.blocks.sinkhorn import sinkhorn
from components.pretrain.blocks.tail import Trainable, freeze_trunk, tail, trunk
from components.pretrain.method import EncoderFactory, Method, Now, StepOutput, ema_update, register
from components.pretrain.plan import Consecutive, Crop, Photometric, Regular, SpanTiming, UniformTimes, ViewPlan

MONITORED = 8  # patches a clip that the collapse guards look at
Batch = dict[str, Tensor]


@register
class TimeT(Method):
    """Time-tuning of an encoder's last blocks."""

    name = "timet"

    class Args(Params):
        """Values of the released code's published runs."""

        n_frames: int = Field(4, ge=2, description="frames T of a clip")
        sampling: Literal["uniform", "dense", "regular"] = Field(
            "uniform", description="frames from all over the video, neighbours, or every `step_s`"
        )
        step_s: float = Field(0.5, gt=0, description="under `regular`: 3 frames of YouTube-VOS, which has 6 a second")
        global_size_px: int = Field(224, gt=0)
        global_scale: tuple[Share, Share] = (0.4, 1.0)
        trainable_blocks: Trainable = Field(2, description="last blocks that learn, or `all`: the whole encoder")
        backbone_lr_scale: float = Field(
            0.1, gt=0, description="the encoder's learning rate is this share of the head's"
        )
        hidden_dims: tuple[int, ...] = (1024, 1024, 512)
        bottleneck_dim: int = Field(256, gt=0)
        out_dim: int = Field(200, gt=1, description="prototypes K")
        student_temp: float = Field(0.1, gt=0, description="tau")
        sinkhorn_epsilon: float = Field(0.05, gt=0)
        sinkhorn_iterations: int = Field(10, ge=1)
        radius: int = Field(6, ge=0, description="patches that a label may move from frame to frame")
        top_k: int | None = Field(
            5, ge=1, description="patches that a carried label is the mean of; null: all near ones"
        )
        forward_temp: float = Field(0.1, gt=0)
        context: int = Field(7, ge=0, description="carried frames that are looked at, beside the first")
        ema: bool = Field(False, description="an EMA teacher assigns, and is exported")
        queue: int = Field(0, ge=0, description="earlier patches in Sinkhorn, over all processes (released: 16384)")
        queue_per_clip: int = Field(10, ge=1, description="patches of a clip that enter the queue")
        foreground: bool = Field(False, description="learn from the patches that the class token looks at")
        foreground_mass: Share = 0.65
        compat: bool = Field(False, description="slips: one jitter operation, no flips, red's std 0.228, EMA swapped")

    def __init__(self, args: Args, build_encoder: EncoderFactory, epochs: float) -> None:
        super().__init__()
        self.args = args
        backbone: Any = build_encoder()
        check_size("global_size_px", args.global_size_px, backbone.patch_embed.patch_size[0])
        if args.trainable_blocks != "all" and not 1 <= args.trainable_blocks <= len(backbone.blocks):
            what = f"trainable_blocks = {args.trainable_blocks} of an encoder of {len(backbone.blocks)} blocks"
            raise StageError(what, where="pretrain.args", do="take 1 to as many as it has, or all")
        freeze_trunk(backbone, args.trainable_blocks)
        dims = (backbone.num_features, *args.hidden_dims, args.bottleneck_dim)
        prototypes = UnitPrototypes(args.bottleneck_dim, args.out_dim)
        self.student = nn.ModuleDict({"backbone": backbone, "head": patch_head(dims), "prototypes": prototypes})
        self.teacher = nn.ModuleDict()
        if args.ema:
            self.teacher = make_teacher(self.student, build_encoder(), ("head", "prototypes"))
        self.queue = FeatureQueue(args.queue, args.bottleneck_dim) if args.queue else None
        self.forwarder = FeatureForwarder(args.radius, args.top_k, args.forward_temp, args.context)

    @classmethod
    def views(cls, args: Args, patch_px: int) -> ViewPlan:
        colours = Photometric(0.8, 0.8, 0.8, 0.2, one_jitter_op=args.compat)
        clip = Crop(
            "global",
            args.global_size_px,
            args.global_scale,
            (colours,),
            frames=tuple(range(args.n_frames)),
            shared_photometric=True,
            blur_sigma_per_frame=args.compat,
            flip_p=0.0 if args.compat else 0.5,
        )
        timings: dict[str, SpanTiming] = {
            "uniform": UniformTimes(args.n_frames),
            "dense": Consecutive(args.n_frames),
            "regular": Regular(args.n_frames, args.step_s),
        }
        return ViewPlan("span", args.n_frames, (clip,), timing=timings[args.sampling], patch_px=patch_px)

    @classmethod
    def needs_start(cls, args: Args) -> bool:
        """Its last blocks alone make no features of random ones."""
        return args.trainable_blocks != "all"

    @torch.no_grad()
    def before_step(self, micro_batches: list[Batch], now: Now) -> list[Batch]:
        """The first frames' features and assignment, of all micro-batches and processes together."""
        found = [self._source(self._frames(batch)[:, 0]) for batch in micro_batches]
        projected = torch.cat([rows for _, rows in found])
        if self.queue is not None:
            self.queue.push(draw_patches(projected, self.args.queue_per_clip, now.generator))
        parts = self._assign(projected).split([len(rows) for _, rows in found])
        return [
            batch | {"features": features, "assignment": part}
            for batch, (features, _), part in zip(micro_batches, found, parts, strict=True)
        ]

    def forward(self, batch: Batch, now: Now) -> StepOutput:
        if "assignment" not in batch:
            [batch] = self.before_step([batch], now)
        args, student = self.args, self.student
        target, before, carried = self._carry(batch)

        labels = carried[:, -1].argmax(dim=-1)  # (B, N)
        scores = student["prototypes"](student["head"](target))  # (B, N, K)
        mask = self._foreground(student, before) if args.foreground else None
        loss = label_loss(scores, labels, args.student_temp, mask)

        agreement = (scores.detach().argmax(dim=-1) == labels).float().mean()
        some = slice(None, None, max(1, target.shape[1] // MONITORED))
        monitors = {
            "teacher_probs": carried[:, -1, some].flatten(0, 1),
            "features": target.detach()[:, some].flatten(0, 1),
        }
        return StepOutput(loss, {"timet": loss.detach(), "agreement": agreement}, monitors)

    def _source(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """First frames (B, 3, S, S): the student's features (B, N, D), and the vectors (B, N, c) that are assigned."""
        n = self.args.trainable_blocks
        shared = trunk(self.student["backbone"], images, n)  # student and teacher are one there, unless all learns
        features, before = tail(self.student["backbone"], shared, n)
        network, patches = self.student, features
        if self.args.ema:
            network = self.teacher
            patches, before = tail(network["backbone"], shared, n)
        projected = full(network["head"](patches))
        if self.args.foreground:  # a zero vector is equally far from all prototypes
            projected = projected * self._foreground(network, before)[..., None]
        return full(features), projected

    def _assign(self, projected: Tensor, *, alone: bool = False) -> Tensor:
        """Sinkhorn's assignment (B, N, K) of this process's patches among all; `alone`: with no other process's."""
        rows = projected.flatten(0, 1)
        if self.queue is not None and not alone:
            rows = torch.cat([rows, self.queue.share()])
        prototypes = (self.teacher if self.args.ema else self.student)["prototypes"]
        plan = sinkhorn(
            prototypes(rows)[None],
            epsilon=self.args.sinkhorn_epsilon,
            n_iterations=self.args.sinkhorn_iterations,
            over_processes=not alone,
        )
        return plan[0, : len(projected) * projected.shape[1]].unflatten(0, projected.shape[:2])

    def _carry(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One pass over the later frames, with gradients for the last one's tail alone.

        Returns:
            The last frame's patch tokens (B, N, D), its tokens before the last block, and all frames' labels
            (B, T, N, K).
        """
        backbone: Any = self.student["backbone"]
        n = self.args.trainable_blocks
        later = self._frames(batch)[:, 1:]  # (B, T - 1, 3, S, S)
        shared = trunk(backbone, later.flatten(0, 1), n).unflatten(0, later.shape[:2])
        features = [batch["features"][:, None]]
        if later.shape[1] > 1:
            with torch.no_grad():
                middle, _ = tail(backbone, shared[:, :-1].flatten(0, 1), n)
            features.append(middle.unflatten(0, (len(later), -1)))
        target, before = tail(backbone, shared[:, -1], n)
        features.append(target.detach()[:, None])
        grid = backbone.patch_embed.dynamic_feat_size(later.shape[-2:])
        return target, before, self.forwarder(torch.cat(features, dim=1), batch["assignment"], grid)

    @torch.no_grad()
    def _foreground(self, network: nn.ModuleDict, before: Tensor) -> Tensor:
        """Foreground (B, N) in the attention of the last block, of the tokens that it receives."""
        backbone: Any = network["backbone"]
        attention = class_attention(backbone.blocks[-1], before)[..., backbone.num_prefix_tokens :]
        side = round(attention.shape[-1] ** 0.5)  # views are square
        return foreground(attention, (side, side), mass=self.args.foreground_mass)

    def _frames(self, batch: Batch) -> Tensor:
        """The clips (B, T, 3, S, S)."""
        frames = batch["global"][:, 0]
        # the released loader divides the first channel by 0.228, a slip of the pen for 0.229
        return frames * frames.new_tensor([0.229 / 0.228, 1, 1])[:, None, None] if self.args.compat else frames

    def after_step(self, now: Now) -> None:
        unit_rows(self.student)
        if self.args.ema:
            ema_update(self.teacher, self.student, 1 - now.momentum if self.args.compat else now.momentum)
            unit_rows(self.teacher)

    def lr_scale(self, name: str) -> float:
        return self.args.backbone_lr_scale if name.startswith("backbone.") else 1.0

    @property
    def encoder(self) -> nn.Module:
        return (self.teacher if self.args.ema else self.student)["backbone"]

    @torch.no_grad()
    def pictures(self, batch: Batch, now: Now) -> dict[str, list[Any]]:
        """The first clip, frame by frame: as it is, and under the prototypes that were assigned and carried."""
        few = {"global": batch["global"][:8]}  # the more clips, the more even the assignment
        features, projected = self._source(self._frames(few)[:, 0])
        first = {"features": features, "assignment": self._assign(projected, alone=True)}
        _, _, carried = self._carry(few | first)
        labels = carried[0].argmax(dim=-1).cpu()  # (T, N)
        return {"carried_assignments": label_frames(few["global"][0, 0].float().cpu(), labels)}


def unit_rows(network: nn.ModuleDict) -> None:
    """Bring the prototypes back to the sphere."""
    prototypes: Any = network["prototypes"]
    prototypes.normalise()


def label_loss(scores: Tensor, labels: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Mean over all patches of H(labels (B, N), softmax(scores (B, N, K) / tau)); patches outside `mask` count as 0."""
    with no_autocast(scores):
        rows = F.cross_entropy(full(scores).flatten(0, 1) / temperature, labels.flatten(), reduction="none")
    return rows.mean() if mask is None else (rows * mask.flatten()).mean()
