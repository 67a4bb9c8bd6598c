"""First masks carried through whole videos: what the tasks on masks and on parts share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.common.outputs import remove, stage_path
from components.evaluate.davis_metrics import VOID, Mask
from components.evaluate.images import read_index, read_rgb, write_index
from components.evaluate.layouts.davis import Sequence
from components.evaluate.protocols import MaskArgs, protocol_of
from components.evaluate.sheets import beside, overlay, to_width, write_gif
from components.evaluate.task import Job

if TYPE_CHECKING:
    from components.common.encoder import Encoder

Check = Callable[[Mask, Path], None]  # of a first mask without void, and its file


def carry(videos: list[Sequence], encoder: Encoder, args: MaskArgs, job: Job, check: Check | None = None) -> Path:
    """Propagate every video's first mask; its masks are <returned folder>/<video>/<frame>.png, details have a copy.

    A video that an earlier process has finished is not done again.
    """
    predicted = job.cache / "predictions"
    with job.progress(sum(len(video.frames) for video in videos), "frames") as progress:
        for video in videos:
            if not (predicted / video.name).is_dir():
                _write(predicted / video.name, video, encoder, args, job, check)
            progress.update(len(video.frames))
    shutil.copytree(predicted, job.details / "predictions")
    for video in videos[: args.pictures]:
        animate(job.details / f"{video.name}.gif", video, predicted / video.name, args)
    return predicted


def _write(folder: Path, video: Sequence, encoder: Encoder, args: MaskArgs, job: Job, check: Check | None) -> None:
    """One PNG per frame, the folder whole or not there."""
    from components.evaluate.video import masks_of

    partial = stage_path(folder)
    remove(partial)
    first = read_index(video.masks[0])
    if check is not None:
        check(first[first != VOID], video.masks[0])
    first[first == VOID] = 0
    masks = masks_of(video.frames, first, encoder, *protocol_of(args), args.effort(job.device))
    for frame, mask in zip(video.frames, masks, strict=True):
        write_index(partial / f"{frame.stem}.png", mask)
    partial.rename(folder)


def animate(file: Path, video: Sequence, predicted: Path, args: MaskArgs) -> None:
    """Propagated masks beside the true ones (or the bare frame where there is none), at most `gif_frames` of them."""
    frames = []
    for number in args.shown(len(video.frames)):
        frame, true_mask = video.frames[number], video.masks.get(number)
        image = to_width(np.array(read_rgb(frame)), args.gif_width_px)
        found = overlay(image, read_index(predicted / f"{frame.stem}.png"))
        truth = overlay(image, read_index(true_mask)) if true_mask else image
        frames.append(beside(found, truth, headings=("propagated", "truth")))
    write_gif(file, frames, frame_ms=round(args.gif_s * 1000))
