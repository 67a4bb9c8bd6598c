"""Semantic segmentation by a small convolutional head on the frozen patch grid.

Protocol of Leopart (arXiv:2204.13101): features upsampled to 100x100; two 3x3 convolutions of 512 channels, their input
beside their output through a third, channel dropout 0.1, a 1x1 convolution; SGD 0.01, momentum 0.9, weight decay 1e-4,
30 epochs, rate x0.1 at 20, batches of 32 in a random order, the last one dropped, random crops of 80 to 100 % of the
area and mirror images; mIoU at 100x100 over all classes. Leopart ViT-S/16 71.4.

`miou_native` scores the written predictions, which have the pictures' own size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.evaluate.score_cli import score_main
from components.evaluate.segmentation_score import add_arguments, score_command
from components.evaluate.task import Job, TaskResult, task
from components.evaluate.voc_probe import ProbeParams, run_probe

if TYPE_CHECKING:
    from components.common.encoder import Encoder


class Args(ProbeParams):
    """The published constants."""

    epochs: int = Field(30, gt=0)
    batch_size: int = Field(32, gt=0)
    shuffle: bool = True
    drop_last: bool = True
    augment: bool = True
    channels: int = Field(512, gt=0, description="of the three convolutions")
    dropout: float = Field(0.1, ge=0, lt=1)
    head_grid: Literal["labels", "patches"] = Field("labels", description="what the convolutions run on")


@task("voc_fcn", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train the head on one split, predict the other, score it."""

    def head(dim: int, n_classes: int) -> Any:
        from components.evaluate.fcn_head import FCNHead

        return FCNHead(dim, args.channels, n_classes, args.dropout, args.seed)

    grid = args.label_px if args.head_grid == "labels" else None
    return run_probe(encoder, benchmark, args, job, head, f"leopart fcn on {args.head_grid}", grid)


if __name__ == "__main__":
    raise SystemExit(score_main("voc_fcn", "mIoU of predicted label maps", add_arguments, score_command))
