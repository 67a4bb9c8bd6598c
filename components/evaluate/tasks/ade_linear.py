"""Scene parsing on ADE20K by a linear head on the frozen encoder. Two published protocols, not to be mixed:

- `bn` (DINOv2, arXiv:2304.07193): batch norm on the concatenated last four blocks, then a 1x1 convolution; AdamW 1e-3,
  weight decay 1e-4, 40k iterations. Robust to the scale of the features; call the figure "BN-linear".
- `ibot` (arXiv:2111.07832): a plain 1x1 convolution on blocks 3, 5, 7, 11 concatenated; AdamW 8e-4, weight decay 0.05,
  160k iterations. 38.3 mIoU for iBOT's ViT-B/16. There is no published rate for ViT-S: give several in `lr`.

Views, schedule and sliding test are those of `ade_upernet`. Heads for several rates are trained side by side on the
same features; the one with the best mIoU on pictures held out from the training split is tested, the test split never
chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from components.evaluate.layouts.ade20k import Scenes, read_ade20k
from components.evaluate.scene_score import add_arguments, figures, score_command, score_maps
from components.evaluate.scene_task import (
    Look,
    SceneParams,
    batches,
    columns,
    loss_rows,
    pairs,
    pixel_loss,
    predict,
    result,
)
from components.evaluate.score_cli import score_main
from components.evaluate.seeds import rng_of
from components.evaluate.sizes import input_side
from components.evaluate.task import Job, Row, TaskResult, task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from components.common.encoder import Encoder
    from components.evaluate.scene_task import Scores

    Features = Callable[[Tensor], Tensor]


class Args(SceneParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "bn": {"batch_norm": True, "taps": "last", "lr": [1e-3], "weight_decay": 1e-4, "iterations": 40_000},
        "ibot": {"batch_norm": False, "taps": "spread", "lr": [8e-4], "weight_decay": 0.05, "iterations": 160_000},
    }

    protocol: Literal["bn", "ibot"] = "bn"
    batch_norm: bool = Field(description="normalise the concatenated features over the batch")
    lr: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="one head each")
    held_out: int = Field(500, gt=0, description="training pictures that choose among several rates")


@task("ade_linear", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train the heads on one split, predict the other with the chosen one, score it."""
    from components.evaluate.curves import draw_lines

    scenes, val = read_ade20k(benchmark, args.train_set), read_ade20k(benchmark, args.val_set)
    learnt, held = split(scenes, args)
    crop_px, notes = input_side(args.crop_px, encoder.patch_size, args.fit)
    features, width = features_of(encoder, crop_px, args, job)
    heads = build_heads(width, args).to(job.device)
    parts = Parts(heads, features, crop_px, Look.of(encoder, job))
    losses = train_heads(parts, learnt, args, job)
    sweep = held_out_scores(held, parts, args, job)
    best = max(range(len(sweep)), key=lambda i: sweep[i]["held_out_miou"] or 0.0)
    predict(val, job.cache / "predictions", parts.scores(best), args, crop_px, parts.look, job)
    name = f"{args.protocol} linear, crops {crop_px}, {args.iterations} iterations of {args.batch_size}"
    found = result(benchmark, learnt, val, job.cache / "predictions", name, args, job)
    found.tables |= {"training": loss_rows(losses, args.run(args.lr[0], job.cache).schedule.rate), "sweep": sweep}
    draw_lines(job.details / "training.png", {"loss": columns(found.tables["training"])}, "iteration", "loss", job.name)
    chosen = f"lr {args.lr[best]:g} chosen by mIoU on {len(held.names)} held-out training pictures"
    found.notes += [*notes, *([chosen] if held.names else [])]
    return found


@dataclass(frozen=True)
class Parts:
    """What predicts: the heads on the frozen features, for windows of a side, and how pictures are read."""

    heads: nn.ModuleList
    features: Features
    crop_px: int
    look: Look

    def scores(self, number: int) -> Scores:
        """Class scores of one head, at the windows' size."""
        from components.evaluate.resampling import upsample

        head = self.heads[number]
        return lambda windows: upsample(head(self.features(windows)), (self.crop_px, self.crop_px))


def features_of(encoder: Encoder, crop_px: int, args: Args, job: Job) -> tuple[Features, int]:
    """Normalised windows -> the taps' concatenated features, and their width."""
    import torch

    from components.evaluate.taps import backbone_for, tap_blocks, tap_maps

    backbone = backbone_for(encoder, crop_px, args.pos_quirk).to(job.device).eval()
    blocks, kind = tap_blocks(len(backbone.blocks), args.taps), torch.device(job.device).type

    def features(images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=args.half and kind != "cpu"):
            return torch.cat(tap_maps(backbone, images, blocks, args.norm_taps), dim=1).float()

    return features, len(blocks) * encoder.dim


def train_heads(parts: Parts, learnt: Scenes, args: Args, job: Job) -> list[float]:
    """Train all heads side by side on the same features; the mean loss of a head by iteration."""
    import torch

    from components.evaluate.finetune import train

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        maps = parts.features(batch[0])  # heads share no weight: the gradient of the sum is each one's own
        return torch.stack([pixel_loss(head(maps), batch[1], args.mean_over_void) for head in parts.heads]).sum()

    groups = [
        {"params": list(head.parameters()), "lr": lr, "scale": 1.0, "weight_decay": args.weight_decay}
        for head, lr in zip(parts.heads, args.lr, strict=True)
    ]
    how = args.run(args.lr[0], job.cache / "training.safetensors")
    views = partial(batches, learnt, args, parts.crop_px, parts.look)
    losses = train(parts.heads, groups, views, loss_of, how, job)
    return [loss / len(parts.heads) for loss in losses]


def held_out_scores(held: Scenes, parts: Parts, args: Args, job: Job) -> list[Row]:
    """mIoU of each rate's head on the pictures that choose; none where there is one rate."""
    sweep: list[Row] = [{"lr": lr, "held_out_miou": None} for lr in args.lr]
    for number, row in enumerate(sweep if held.names else []):
        folder = job.cache / f"held_out_{number}"
        predict(held, folder, parts.scores(number), args, parts.crop_px, parts.look, job)
        row["held_out_miou"] = figures(score_maps(pairs(held, folder), args.num_classes))["miou"]
    return sweep


def split(scenes: Scenes, args: Args) -> tuple[Scenes, Scenes]:
    """(learnt from, held out): none held out for a single rate, else pictures drawn by the seed, at most half."""
    order = rng_of(args.seed, 3).permutation(len(scenes.names))
    n = min(args.held_out, len(order) // 2) if len(args.lr) > 1 else 0
    learnt, held = (
        Scenes(*([column[i] for i in sorted(part)] for column in (scenes.names, scenes.images, scenes.masks)))
        for part in (order[n:].tolist(), order[:n].tolist())
    )
    return learnt, held


def build_heads(dim: int, args: Args) -> nn.ModuleList:
    """One head per rate, all with the same seeded start: weights from a normal of std 0.01, no bias."""
    import torch
    from torch import nn

    from components.evaluate.seeds import torch_seeded

    heads = nn.ModuleList()
    for _ in args.lr:
        layer = nn.Conv2d(dim, args.num_classes, 1)
        with torch_seeded("cpu", args.seed, 2):
            nn.init.normal_(layer.weight, std=0.01)
        layer.bias = nn.Parameter(torch.zeros(args.num_classes))
        heads.append(nn.Sequential(nn.BatchNorm2d(dim) if args.batch_norm else nn.Identity(), layer))
    return heads


if __name__ == "__main__":
    raise SystemExit(score_main("ade_linear", "mIoU, mAcc, aAcc of predicted label maps", add_arguments, score_command))
