"""Video object segmentation by label propagation, scored by DAVIS's J and F.

The first mask of a clip is carried through it by similarity of frozen patch features. Two published protocols, whose
figures must not be mixed:

- `dino` (arXiv:2104.14294, appendix; 61.8 J&F for DINO ViT-S/16 on DAVIS-2017 val): first and last 7 frames, a square
  window on all of them, hard first labels, min-max before the maximum, and a first std of 0.228 instead of 0.229.
- `cropmae` (CropMAE and T-CoRe, after videowalk, arXiv:2006.14613): first and last 20 frames, a round window except on
  the first frame, copies of the first frame while fewer than 20 have passed, soft first labels, frames forced to
  480x880.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from components.common.outputs import remove, stage_path
from components.evaluate.davis_score import Scores, score_folders
from components.evaluate.images import read_index, read_rgb, write_index
from components.evaluate.layouts.davis import Sequence, read_davis, read_list, sequence_names, sequence_root
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import beside, overlay, to_width, write_gif
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.propagation import Rule
    from components.evaluate.video import Reading

PUBLISHED: dict[str, dict[str, Any]] = {
    "dino": {
        "input_px": 480, "long_side_multiple_px": 64, "pixel_std": [0.228, 0.224, 0.225],
        "context_frames": 7, "radius_cells": 12, "window": "square", "restrict_first": True, "fill_with_first": False,
        "top_k": 5, "keep_ties": True, "temperature": 0.1,
        "label_grid": "nearest", "min_max": True, "keep_first_mask": True,
    },
    "cropmae": {
        "input_px": [480, 880], "long_side_multiple_px": 1, "pixel_std": None,
        "context_frames": 20, "radius_cells": 20, "window": "disk", "restrict_first": False, "fill_with_first": True,
        "top_k": 7, "keep_ties": False, "temperature": 0.7,
        "label_grid": "bilinear", "min_max": False, "keep_first_mask": False,
    },
}  # fmt: skip


class Args(TaskParams):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {
        "block_cells",
        "gif_width_px",
        "gif_frames",
        "gif_s",
    }

    protocol: Literal["dino", "cropmae"] = "dino"
    fit: Literal["round"] = Field("round", description="both sides are rounded down to whole patches")
    image_set: str = Field("2017/val", description="list of sequences under ImageSets")
    sparse: bool = Field(False, description="masks on some frames only")
    input_px: int | tuple[int, int] = Field(description="short side, or [height, width] forced")
    long_side_multiple_px: int = Field(gt=0, description="the long side is rounded down to a multiple")
    pixel_std: tuple[float, float, float] | None = Field(description="null: the encoder's own")
    context_frames: int = Field(ge=0, description="earlier frames asked besides the first")
    radius_cells: int = Field(ge=1, description="window, in cells of the feature grid")
    window: Literal["square", "disk"]
    restrict_first: bool = Field(description="the window holds on the first frame too")
    fill_with_first: bool = Field(description="copies of the first frame stand in for frames before the clip")
    top_k: int = Field(gt=0, description="source cells that vote")
    keep_ties: bool = Field(description="sources as similar as the k-th vote too")
    temperature: float = Field(gt=0)
    label_grid: Literal["nearest", "bilinear"]
    min_max: bool = Field(description="stretch every label's map to 0..1 before the maximum")
    keep_first_mask: bool = Field(description="write the first mask as given")
    batch_images: int = Field(4, gt=0, description="frames per forward pass")
    block_cells: int = Field(512, gt=0, description="target cells worked on at once; memory only")
    gif_width_px: int = Field(240, gt=0, description="width of one half of the animation")
    gif_frames: int = Field(40, gt=0, description="frames of the animation at most, evenly chosen")
    gif_s: float = Field(0.1, gt=0, description="seconds a frame is shown")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_protocol(cls, section: dict[str, Any]) -> dict[str, Any]:
        return {**PUBLISHED.get(section.get("protocol", "dino"), {}), **section}


@task("vos", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Propagate every sequence, write its masks in DAVIS layout, score them."""
    sequences = read_davis(benchmark, args.image_set, args.sparse)
    predicted = job.cache / "predictions"
    with job.progress(sum(len(s.frames) for s in sequences), "frames") as progress:
        for sequence in sequences:
            if not (predicted / sequence.name).is_dir():
                write_masks(predicted / sequence.name, sequence, encoder, args, job)
            progress.update(len(sequence.frames))
    shutil.copytree(predicted, job.details / "predictions")
    scores = score_folders(sequence_root(benchmark / "Annotations"), predicted, [s.name for s in sequences])
    for sequence in sequences[: args.pictures]:
        animate(job.details / f"{sequence.name}.gif", sequence, predicted / sequence.name, args)
    sizes = sorted({f"{s.width}x{s.height}" for s in sequences})
    return TaskResult(
        protocol=f"{args.protocol} propagation, input {input_words(args)}",
        metrics=scores.summary(),
        primary="jf_mean",
        data_variant=f"{args.image_set}: {len(sequences)} sequences, {len(scores.objects)} objects, "
        f"{sum(len(s.frames) for s in sequences)} frames of {', '.join(sizes)}",
        rows=scores.objects,
        tables={"frames": scores.frames},
        notes=size_notes(sequences, encoder.patch_size, args),
    )


def write_masks(folder: Path, sequence: Sequence, encoder: Encoder, args: Args, job: Job) -> None:
    """One PNG per frame, the folder whole or not there."""
    from components.evaluate.video import masks_of

    partial = stage_path(folder)
    remove(partial)
    reading, rule = protocol_of(args)
    masks = masks_of(sequence, encoder, reading, rule, batch=args.batch_images, workers=args.workers, device=job.device)
    for frame, mask in zip(sequence.frames, masks, strict=True):
        write_index(partial / f"{frame.stem}.png", mask)
    partial.rename(folder)


def protocol_of(args: Args) -> tuple[Reading, Rule]:
    """The parameters by what they govern: reading and writing frames, and moving labels."""
    from components.evaluate.propagation import Rule
    from components.evaluate.video import Reading

    reading = Reading(**{field.name: getattr(args, field.name) for field in fields(Reading)})
    return reading, Rule(**{field.name: getattr(args, field.name) for field in fields(Rule)})


def input_words(args: Args) -> str:
    """Input size in words, for the protocol's name."""
    if isinstance(args.input_px, int):
        return f"short side {args.input_px}"
    return f"{args.input_px[1]}x{args.input_px[0]}"


def size_notes(sequences: list[Sequence], patch: int, args: Args) -> list[str]:
    """What frames are resized to, for each size there is."""
    from components.evaluate.video import input_size

    reading, _ = protocol_of(args)
    notes = []
    for h, w in sorted({(s.height, s.width) for s in sequences}):
        height, width = input_size(h, w, reading, patch)
        notes.append(f"frames of {w}x{h} enter at {width}x{height}, a grid of {width // patch}x{height // patch} cells")
    return notes


def animate(file: Path, sequence: Sequence, predicted: Path, args: Args) -> None:
    """Propagated masks beside the true ones (or the bare frame where there is none), at most `gif_frames` of them."""
    n = len(sequence.frames)
    frames = []
    for number in range(0, n, -(-n // args.gif_frames)):
        frame, true_mask = sequence.frames[number], sequence.masks.get(number)
        image = to_width(np.array(read_rgb(frame)), args.gif_width_px)
        found = overlay(image, read_index(predicted / f"{frame.stem}.png"))
        truth = overlay(image, read_index(true_mask)) if true_mask else image
        frames.append(beside(found, truth, headings=("propagated", "truth")))
    write_gif(file, frames, frame_ms=round(args.gif_s * 1000))


def _score(args: argparse.Namespace) -> dict[str, Any]:
    inside = (args.gt / "Annotations").is_dir()
    truth = sequence_root(args.gt / "Annotations") if inside else args.gt
    names = read_list(args.set) if args.set else sequence_names(args.gt, truth, Args.model_validate({}).image_set)
    scores = score_folders(truth, sequence_root(args.pred), names)
    return scores_document(scores)


def scores_document(scores: Scores) -> dict[str, Any]:
    """Means over objects, and the rows per object and per frame."""
    return {"metrics": scores.summary(), "objects": scores.objects, "frames": scores.frames}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in DAVIS layout, or its folder of masks")
    parser.add_argument("--pred", type=Path, required=True, help="folder with a folder of PNGs per sequence")
    parser.add_argument("--set", type=Path, help="list of sequences; default: ImageSets/2017/val.txt, else all")


if __name__ == "__main__":
    raise SystemExit(score_main("vos", "J and F of predicted masks", _arguments, _score))
