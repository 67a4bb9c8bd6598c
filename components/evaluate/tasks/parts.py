"""Human parts by label propagation on VIP, scored by mIoU over 20 classes.

The first frame's part labels are carried through the annotated frames of a video. Two published settings:

- `cropmae` (CropMAE and T-CoRe; T-CoRe ViT-S/16 39.7): the long side at 880, the other down to a multiple of 64, 10
  votes, otherwise as for `vos`.
- `crw` (CRW, arXiv:2006.14613; 38.6 for its ResNet-18): 560x560, 4 earlier frames, radius 12, temperature 0.05.

All pixels of all frames count, those of the first frame too, whose labels went through the grid and back.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from components.evaluate.layouts.vip import CLASSES, label_root, read_vip, video_names
from components.evaluate.mask_videos import carry
from components.evaluate.parts_score import score_parts
from components.evaluate.protocols import CROPMAE, CRW, MaskArgs, input_words, protocol_of
from components.evaluate.score_cli import score_main
from components.evaluate.segmentation_score import check_labels
from components.evaluate.task import Job, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder


class Args(MaskArgs):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "cropmae": {**CROPMAE, "input_px": 880, "long_side_multiple_px": 64, "top_k": 10},
        "crw": {**CRW, "input_px": [560, 560], "context_frames": 4},
    }

    protocol: Literal["cropmae", "crw"] = "cropmae"  # type: ignore[assignment]
    input_px: int | tuple[int, int] | None = Field(description="one side, or [height, width] forced, or null: as is")
    input_side: Literal["short", "long"] = Field("long", description="which side a single input_px names")
    long_side_multiple_px: int = Field(gt=0, description="the side that is not named is rounded down to a multiple")
    label_order: Literal["palette", "value"] = Field("value", description="of the labels, decides equal votes")
    video_list: str = Field("val_videos", description="list of videos under lists")
    count_first_frame: bool = Field(True, description="the first frame, whose labels are given, is scored as well")


@task("parts", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Propagate every video's labels, write them in VIP's layout, score them."""
    from components.evaluate.video import size_notes

    videos = read_vip(benchmark, args.video_list)
    predicted = carry(videos, encoder, args, job, lambda first, file: check_labels(first, len(CLASSES), file))
    scores = score_parts(label_root(benchmark), predicted, [v.name for v in videos], args.count_first_frame)
    return TaskResult(
        protocol=f"{args.protocol} propagation of parts, input {input_words(args)}",
        metrics=scores["metrics"],
        primary="miou",
        data_variant=f"{args.video_list}: {len(videos)} videos, {sum(len(v.frames) for v in videos)} annotated frames",
        rows=scores["classes"],
        tables={"videos": scores["videos"]},
        notes=size_notes([(v.height, v.width) for v in videos], protocol_of(args)[0], encoder.patch_size),
    )


def _score(args: argparse.Namespace) -> dict[str, Any]:
    return score_parts(label_root(args.gt), args.pred, video_names(args.gt, args.list), not args.skip_first_frame)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in VIP layout")
    parser.add_argument("--pred", type=Path, required=True, help="folder with a folder of PNGs per video")
    parser.add_argument("--list", default="val_videos", help="list of videos under lists, without .txt")
    parser.add_argument("--skip-first-frame", action="store_true", help="leave out the frame whose labels are given")


if __name__ == "__main__":
    raise SystemExit(score_main("parts", "mIoU of predicted part labels", _arguments, _score))
