"""Video object segmentation by label propagation, scored by DAVIS's J and F.

The first mask of a clip is carried through it by similarity of frozen patch features. Three published protocols, whose
figures must not be mixed:

- `dino` (arXiv:2104.14294, appendix; 61.8 J&F for DINO ViT-S/16 on DAVIS-2017 val): first and last 7 frames, a square
  window on all of them, hard first labels, min-max before the maximum, and a first std of 0.228 instead of 0.229.
- `cropmae` (CropMAE and T-CoRe, after videowalk): first and last 20 frames, a round window except on the first frame,
  copies of the first frame while fewer than 20 have passed, soft first labels, frames forced to 480x880.
- `crw` (CRW, arXiv:2006.14613, by the command in videowalk's README; 67.6 J&F for its ResNet-18): the same at the
  frames' own size, with radius 12, 10 votes and temperature 0.05.

`score` also takes the masks of a method that was given no first mask: `--setting unsupervised`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from components.common.errors import StageError
from components.evaluate.davis_score import Decay, Scores, score_folders
from components.evaluate.davis_unsupervised import MAX_PROPOSALS, score_unsupervised
from components.evaluate.layouts.davis import read_davis, read_list, sequence_names, sequence_root
from components.evaluate.mask_videos import carry
from components.evaluate.protocols import MaskArgs, input_words, protocol_of
from components.evaluate.score_cli import score_main
from components.evaluate.task import Job, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder


class Args(MaskArgs):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    image_set: str = Field("2017/val", description="list of sequences under ImageSets")
    sparse: bool = Field(False, description="masks on some frames only")
    decay: Decay = Field("whole", description="eight_bits: its frame numbers as the official code keeps them")


@task("vos", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Propagate every sequence, write its masks in DAVIS layout, score them."""
    from components.evaluate.video import size_notes

    sequences = read_davis(benchmark, args.image_set, args.sparse)
    predicted = carry(sequences, encoder, args, job)
    scores = score_folders(sequence_root(benchmark / "Annotations"), predicted, [s.name for s in sequences], args.decay)
    sizes = sorted({f"{s.width}x{s.height}" for s in sequences})
    return TaskResult(
        protocol=f"{args.protocol} propagation, input {input_words(args)}",
        metrics=scores.summary(),
        primary="jf_mean",
        data_variant=f"{args.image_set}: {len(sequences)} sequences, {len(scores.objects)} objects, "
        f"{sum(len(s.frames) for s in sequences)} frames of {', '.join(sizes)}",
        rows=scores.objects,
        tables={"frames": scores.frames},
        notes=size_notes([(s.height, s.width) for s in sequences], protocol_of(args)[0], encoder.patch_size),
    )


def _score(args: argparse.Namespace) -> dict[str, Any]:
    unsupervised = args.setting == "unsupervised"
    if not args.gt.is_dir():
        raise StageError("no such folder", where=args.gt)
    folder = args.gt / ("Annotations_unsupervised" if unsupervised else "Annotations")
    truth = sequence_root(folder) if folder.is_dir() else args.gt
    names = read_list(args.set) if args.set else sequence_names(args.gt, truth, Args.model_validate({}).image_set)
    predicted = sequence_root(args.pred)
    if unsupervised:
        return scores_document(score_unsupervised(truth, predicted, names, args.max_proposals, args.decay))
    return scores_document(score_folders(truth, predicted, names, args.decay, args.setting == "binary"))


def scores_document(scores: Scores) -> dict[str, Any]:
    """Means over objects, and the rows per object and per frame."""
    return {"metrics": scores.summary(), "objects": scores.objects, "frames": scores.frames}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in DAVIS layout, or its folder of masks")
    parser.add_argument("--pred", type=Path, required=True, help="folder with a folder of PNGs per sequence")
    parser.add_argument("--set", type=Path, help="list of sequences; default: ImageSets/2017/val.txt, else all")
    what = "semi-supervised: ids are those of the first mask; unsupervised: proposals, matched to the objects; "
    what += "binary: all that is not 0 is one object (DAVIS-2016)"
    settings = ["semi-supervised", "unsupervised", "binary"]
    parser.add_argument("--setting", choices=settings, default=settings[0], help=what)
    what = "frame numbers of the decay: whole, or in 8 bits as in the official code (clips beyond 256 frames)"
    parser.add_argument("--decay", choices=get_args(Decay), default="whole", help=what)
    parser.add_argument("--max-proposals", type=int, default=MAX_PROPOSALS, help="unsupervised: ids allowed at most")


if __name__ == "__main__":
    raise SystemExit(score_main("vos", "J and F of predicted masks", _arguments, _score))
