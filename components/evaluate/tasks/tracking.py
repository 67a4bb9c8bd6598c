"""Object tracking on GOT-10k without a tracker: the box of a propagated box, scored by AO and SR.

The box of the first frame is filled and carried through the video as a mask (`vos`, which see for the protocols); the
box of the propagated mask's largest piece is the answer. No tracker is trained and no box regressed, so figures may be
compared with each other and not with those of trackers. DoRA (arXiv:2310.08584) reports GOT-10k with a tracker that was
not released.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from components.common.outputs import write_text
from components.evaluate.images import read_rgb
from components.evaluate.layouts.got10k import (
    Boxes,
    Track,
    box_file,
    read_boxes,
    read_got10k,
    read_track,
    sequence_names,
)  # fmt: skip
from components.evaluate.protocols import MaskArgs, input_words, protocol_of
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import beside, to_width, write_gif
from components.evaluate.task import Job, TaskResult, task
from components.evaluate.tracking_score import Overlaps, clipped, score_tracks

if TYPE_CHECKING:
    from components.common.encoder import Encoder

FOUND, TRUE = (255, 140, 0), (60, 220, 90)  # colours of the boxes


class Args(MaskArgs):
    """`protocol` sets the published constants of the propagation; the rest is ours."""

    beside_protocol: ClassVar[frozenset[str]] = MaskArgs.beside_protocol

    subset: Literal["train", "val"] = Field("val", description="test has no truth to score")
    box_of: Literal["mask", "largest_piece"] = Field("largest_piece", description="what the box goes round")
    when_lost: Literal["last", "empty"] = Field("last", description="the box of an empty mask: the last one, or none")


@task("tracking", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Follow every object, write its boxes as the toolkit does, score them."""
    from components.evaluate.video import size_notes

    videos = read_got10k(benchmark, args.subset)
    predicted = job.cache / "predictions"
    with job.progress(sum(len(frames) for _, frames in videos), "frames") as progress:
        for track, frames in videos:
            file = box_file(predicted, track.name)
            if not file.is_file():
                write_boxes(file, np.array(list(boxes_of(track, frames, encoder, args, job))))
            progress.update(len(frames))
    shutil.copytree(predicted, job.details / "predictions")
    found = score_tracks([track for track, _ in videos], predicted)
    for track, frames in videos[: args.pictures]:
        animate(job.details / f"{track.name}.gif", track, frames, read_boxes(box_file(predicted, track.name)), args)
    return TaskResult(
        protocol=f"box of a propagated box, {args.protocol}, input {input_words(args)}",
        metrics=found.summary(),
        primary="ao",
        data_variant=f"{args.subset}: {len(videos)} sequences, {sum(len(f) for _, f in videos)} frames, "
        f"{len(found.frames)} scored",
        rows=found.sequences,
        tables={"frames": found.frames},
        notes=size_notes([track.bound[::-1] for track, _ in videos], protocol_of(args)[0], encoder.patch_size),
    )


def boxes_of(track: Track, frames: list[Path], encoder: Encoder, args: Args, job: Job) -> Iterator[np.ndarray]:
    """A box (4,) x, y, w, h for every frame; the first one is the true one."""
    from components.evaluate.video import masks_of

    first = box_mask(track.boxes[0], read_rgb(frames[0]).size)
    last = track.boxes[0]
    for number, mask in enumerate(masks_of(frames, first, encoder, *protocol_of(args), args.effort(job.device))):
        if number:
            found = mask_box(mask, args.box_of)
            last = found if found is not None else last if args.when_lost == "last" else np.zeros(4)
        yield last


def box_mask(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 1 on the pixels whose centres lie in the box, at least on one pixel."""
    width, height = size
    x, y, w, h = clipped(box[None], size)[0]
    left, top = (min(int(at + 0.5), side - 1) for at, side in ((x, width), (y, height)))
    mask = np.zeros((height, width), np.uint8)
    mask[top : max(top + 1, int(y + h + 0.5)), left : max(left + 1, int(x + w + 0.5))] = 1
    return mask


def mask_box(mask: np.ndarray, box_of: str) -> np.ndarray | None:
    """(4,) x, y, w, h about object 1, or about its largest piece (4-connected); None if it has no pixels."""
    if box_of == "largest_piece":
        count, _, stats, _ = cv2.connectedComponentsWithStats((mask == 1).astype(np.uint8), connectivity=4)
        return stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), :4].astype(float) if count > 1 else None
    rows, columns = (np.flatnonzero((mask == 1).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]], float)


def write_boxes(file: Path, boxes: Boxes) -> None:
    """A line `x,y,w,h` a frame, three decimals, as the toolkit records them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(",".join(f"{value:.3f}" for value in box) + "\n" for box in boxes))


def animate(file: Path, track: Track, frames: list[Path], boxes: Boxes, args: Args) -> None:
    """The box that was found beside the true one, at most `gif_frames` of them; frames without truth show none."""
    pictures = []
    for number in args.shown(len(frames)):
        image = to_width(np.array(read_rgb(frames[number])), args.gif_width_px)
        scale = image.shape[1] / track.bound[0]
        truth = with_box(image, track.boxes[number] * scale, TRUE) if track.cover[number] > 0 else image
        pictures.append(beside(with_box(image, boxes[number] * scale, FOUND), truth, headings=("followed", "truth")))
    write_gif(file, pictures, frame_ms=round(args.gif_s * 1000))


def with_box(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The picture with a box drawn on it."""
    x, y, w, h = (round(float(value)) for value in box)
    return np.asarray(cv2.rectangle(image.copy(), (x, y), (x + max(w, 1) - 1, y + max(h, 1) - 1), colour, 2))


def _score(args: argparse.Namespace) -> dict[str, Any]:
    tracks = [read_track(args.gt / args.subset / name) for name in sequence_names(args.gt, args.subset)]
    return scores_document(score_tracks(tracks, args.pred))


def scores_document(found: Overlaps) -> dict[str, Any]:
    """Figures over all frames, and the rows per sequence and per frame."""
    return {"metrics": found.summary(), "sequences": found.sequences, "frames": found.frames}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in GOT-10k layout")
    parser.add_argument("--pred", type=Path, required=True, help="folder of <sequence>/<sequence>_001.txt")
    parser.add_argument("--subset", choices=("train", "val"), default="val")


if __name__ == "__main__":
    raise SystemExit(score_main("tracking", "AO and SR of predicted boxes", _arguments, _score))
