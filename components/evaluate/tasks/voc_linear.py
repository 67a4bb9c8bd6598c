"""Semantic segmentation by a linear probe on the frozen patch grid.

A 1x1 convolution on the patch features after the final norm, upsampled to 100x100: input 448, cross entropy without
void pixels, SGD 0.01, momentum 0.9, weight decay 1e-4, mIoU at 100x100 over all classes, background included. Named
protocols, whose figures must not be mixed:

- `timet` (the script of TimeT, arXiv:2308.11796): 50 epochs, rate x0.1 every 20, batches of 60 in the list's order, no
  augmentation. An image's features never change, so they are computed once.
- `leopart` (arXiv:2204.13101): 25 epochs, rate x0.1 at 20, batches of 60 in a random order, the last one dropped,
  random crops of 80 to 100 % of the area and mirror images. DINO ViT-S/16 50.2, TimeT 66.3, Leopart 66.5.
- `neco` (arXiv:2408.11054): as `leopart` with batches of 128.

`miou_native` scores the written predictions, which have the pictures' own size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from components.evaluate.score_cli import score_main
from components.evaluate.segmentation_score import add_arguments, score_command
from components.evaluate.task import Job, TaskResult, task
from components.evaluate.voc_probe import ProbeParams, run_probe

if TYPE_CHECKING:
    from components.common.encoder import Encoder

_LEOPART: dict[str, Any] = {"epochs": 25, "batch_size": 60, "shuffle": True, "drop_last": True, "augment": True}


class Args(ProbeParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "timet": {"epochs": 50, "batch_size": 60, "shuffle": False, "drop_last": False, "augment": False},
        "leopart": _LEOPART,
        "neco": {**_LEOPART, "batch_size": 128},
    }

    protocol: Literal["timet", "leopart", "neco"] = "timet"


@task("voc_linear", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train the probe on one split, predict the other, score it."""
    import torch

    from components.evaluate.probe import make_head

    start = torch.Generator().manual_seed(args.seed)
    return run_probe(encoder, benchmark, args, job, lambda d, n: make_head(d, n, start), f"{args.protocol} linear")


if __name__ == "__main__":
    raise SystemExit(score_main("voc_linear", "mIoU of predicted label maps", add_arguments, score_command))
