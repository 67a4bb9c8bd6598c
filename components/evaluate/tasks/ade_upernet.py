"""Scene parsing on ADE20K by fine-tuning the whole encoder under UperNet.

Protocol of iBOT (arXiv:2111.07832, appendix), after BEiT (arXiv:2106.08254): four blocks, each through the final norm,
become a pyramid for UperNet, an auxiliary FCN head reads the third (weight 0.4); crops of 512 px, AdamW with rates that
fall with depth, 160k iterations of 16 pictures, linear warm-up, polynomial schedule; windows of 512 px every 341 px at
test, one scale. The figure is that of the last iteration, none is picked. Published with iBOT's
weights: ViT-S/16 45.4 mIoU, ViT-B/16 50.0.

`protocol` sets what differs by size: `vit_s` (ViT-S) or `vit_b` (ViT-B), rates as in the released commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from components.evaluate.layouts.ade20k import read_ade20k
from components.evaluate.scene_score import add_arguments, score_command
from components.evaluate.scene_task import Look, SceneParams, batches, columns, loss_rows, pixel_loss, predict, result
from components.evaluate.score_cli import score_main
from components.evaluate.sizes import input_side
from components.evaluate.task import Job, TaskResult, task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from components.common.encoder import Encoder


class Args(SceneParams):
    """`protocol` sets the published constants that depend on the encoder's size; a key beside it changes one."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "vit_s": {"lr": 3e-5, "layer_decay": 0.9},
        "vit_b": {"lr": 8e-5, "layer_decay": 0.65},
    }

    protocol: Literal["vit_s", "vit_b"] = "vit_s"
    lr: float = Field(gt=0)
    layer_decay: float = Field(gt=0, le=1, description="rate of a layer / rate of the one above it")
    decay_positions: bool = Field(True, description="weight decay on tokens and positions too, as in the released code")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the last block; rises from 0")
    channels: int | None = Field(None, gt=0, description="of UperNet; null: the encoder's width")
    aux_channels: int = Field(256, gt=0)
    aux_weight: float = Field(0.4, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)


@task("ade_upernet", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Fine-tune on one split, predict the other, score it."""
    from components.evaluate.curves import draw_lines
    from components.evaluate.resampling import upsample

    scenes, val = read_ade20k(benchmark, args.train_set), read_ade20k(benchmark, args.val_set)
    crop_px, notes = input_side(args.crop_px, encoder.patch_size, args.fit)
    look = Look.of(encoder, job)
    network = build(encoder, args, crop_px).to(job.device)
    losses = fine_tune(network, len(encoder.model.blocks), partial(batches, scenes, args, crop_px, look), args, job)

    def scores_of(windows: Tensor) -> Tensor:
        with half(args, job):
            scores: Tensor = network(windows)[0]
        return upsample(scores.float(), (crop_px, crop_px))

    predict(val, job.cache / "predictions", scores_of, args, crop_px, look, job)
    name = f"{args.protocol} upernet, crops {crop_px}, {args.iterations} iterations of {args.batch_size}"
    found = result(benchmark, scenes, val, job.cache / "predictions", name, args, job)
    found.tables["training"] = loss_rows(losses, args.run(args.lr, job.cache).schedule.rate)
    draw_lines(job.details / "training.png", {"loss": columns(found.tables["training"])}, "iteration", "loss", job.name)
    found.notes += notes
    return found


def fine_tune(
    network: nn.Module,
    depth: int,
    views: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    args: Args,
    job: Job,
) -> list[float]:
    """Train encoder and head, the rate falling from layer to layer; the loss by iteration."""
    from components.evaluate.finetune import layer_groups, train

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        with half(args, job):
            scores, aux = network(batch[0])
        main, side = (pixel_loss(s, batch[1], args.mean_over_void) for s in (scores, aux))
        return main + args.aux_weight * side

    groups = layer_groups(network, depth, args.layer_decay, args.weight_decay, args.decay_positions)
    return train(network, groups, views, loss_of, args.run(args.lr, job.cache / "training.safetensors"), job)


def half(args: Args, job: Job) -> torch.autocast:
    """bfloat16 on a GPU, if that is asked for."""
    import torch

    return torch.autocast(torch.device(job.device).type, torch.bfloat16, enabled=args.half and job.device != "cpu")


def build(encoder: Encoder, args: Args, crop_px: int) -> nn.Module:
    """The encoder's copy with UperNet on it, its start seeded."""
    from components.evaluate.seeds import torch_seeded
    from components.evaluate.taps import backbone_for, drop_paths, tap_blocks
    from components.evaluate.upernet import Segmenter, UperNet

    backbone = backbone_for(encoder, crop_px, args.pos_quirk).requires_grad_(True)
    drop_paths(backbone, args.drop_path)
    with torch_seeded("cpu", args.seed, 2):
        head = UperNet(encoder.dim, args.channels or encoder.dim, args.aux_channels, args.num_classes, args.dropout)
    return Segmenter(backbone, tap_blocks(len(backbone.blocks), args.taps), args.norm_taps, head)


if __name__ == "__main__":
    raise SystemExit(
        score_main("ade_upernet", "mIoU, mAcc, aAcc of predicted label maps", add_arguments, score_command)
    )
