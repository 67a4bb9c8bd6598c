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

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

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

PUBLISHED: dict[str, dict[str, Any]] = {
    "bn": {"batch_norm": True, "taps": "last", "lr": [1e-3], "weight_decay": 1e-4, "iterations": 40_000},
    "ibot": {"batch_norm": False, "taps": "spread", "lr": [8e-4], "weight_decay": 0.05, "iterations": 160_000},
}


class Args(SceneParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    protocol: Literal["bn", "ibot"] = "bn"
    batch_norm: bool = Field(description="normalise the concatenated features over the batch")
    lr: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="one head each")
    held_out: int = Field(500, gt=0, description="training pictures that choose among several rates")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_protocol(cls, section: dict[str, Any]) -> dict[str, Any]:
        return {**PUBLISHED.get(section.get("protocol", "bn"), {}), **section}


@task("ade_linear", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train the heads on one split, predict the other with the chosen one, score it."""
    import torch

    from components.evaluate.curves import draw_lines
    from components.evaluate.finetune import train
    from components.evaluate.resampling import upsample
    from components.evaluate.taps import backbone_for, tap_blocks, tap_maps

    scenes, val = read_ade20k(benchmark, args.train_set), read_ade20k(benchmark, args.val_set)
    learnt, held = split(scenes, args)
    crop_px, notes = input_side(args.crop_px, encoder.patch_size, args.fit)
    look, how = Look.of(encoder, job), args.run(args.lr[0], job.cache / "training.safetensors")
    backbone = backbone_for(encoder, crop_px, args.pos_quirk).to(job.device).eval()
    blocks = tap_blocks(len(backbone.blocks), args.taps)
    heads = build_heads(len(blocks) * encoder.dim, args).to(job.device)

    def features(images: Tensor) -> Tensor:
        kind = torch.device(job.device).type
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=args.half and kind != "cpu"):
            return torch.cat(tap_maps(backbone, images, blocks, args.norm_taps), dim=1).float()

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        maps = features(batch[0])  # heads share no weight: the gradient of the sum is each one's own
        return torch.stack([pixel_loss(head(maps), batch[1], args.mean_over_void) for head in heads]).sum()

    def scores_of(number: int) -> Scores:
        return lambda windows: upsample(heads[number](features(windows)), (crop_px, crop_px))

    groups = [
        {"params": list(head.parameters()), "lr": lr, "scale": 1.0, "weight_decay": args.weight_decay}
        for head, lr in zip(heads, args.lr, strict=True)
    ]
    losses = train(heads, groups, lambda n: batches(learnt, args, crop_px, look, n), loss_of, how, job)
    sweep: list[Row] = [{"lr": lr, "held_out_miou": None} for lr in args.lr]
    for number, row in enumerate(sweep if held.names else []):
        folder = job.cache / f"held_out_{number}"
        predict(held, folder, scores_of(number), args, crop_px, look, job)
        row["held_out_miou"] = figures(score_maps(pairs(held, folder), args.num_classes))["miou"]
    best = max(range(len(sweep)), key=lambda i: sweep[i]["held_out_miou"] or 0.0)
    predict(val, job.cache / "predictions", scores_of(best), args, crop_px, look, job)
    name = f"{args.protocol} linear, crops {crop_px}, {args.iterations} iterations of {args.batch_size}"
    found = result(benchmark, learnt, val, job.cache / "predictions", name, args, job)
    found.tables |= {"training": loss_rows([loss / len(heads) for loss in losses], how.schedule.rate), "sweep": sweep}
    draw_lines(job.details / "training.png", {"loss": columns(found.tables["training"])}, "iteration", "loss", job.name)
    chosen = f"lr {args.lr[best]:g} chosen by mIoU on {len(held.names)} held-out training pictures"
    found.notes += [*notes, *([chosen] if held.names else [])]
    return found


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
