"""One benchmark video through an encoder: frames in, masks out, as each protocol sizes and rounds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.common.encoder import Encoder
from components.common.errors import StageError
from components.evaluate.davis_metrics import Mask
from components.evaluate.features import normalised
from components.evaluate.images import ahead, pascal_palette, read_rgb
from components.evaluate.propagation import Rule, propagate


@dataclass(frozen=True)
class Reading:
    """How frames enter the network and labels leave it.

    Attributes:
        input_px: one side, or (height, width) forced, or None: the frame's own size.
        long_side_multiple_px: the long side is rounded down to it (the short one, if `input_side` is long).
        pixel_std: what frames are divided by; None takes the encoder's own.
        label_grid: how the first mask comes to the feature grid.
        min_max: each label's map is stretched to 0..1 before the maximum is taken.
        keep_first_mask: the first mask is written as given, else as it comes back from the grid.
        input_side: which side a single `input_px` names.
        label_order: of the channels of `bilinear` first labels, which decides equal votes: DAVIS's masks are told
            apart by palette colour, grey label maps by value.
    """

    input_px: int | tuple[int, int] | None
    long_side_multiple_px: int
    pixel_std: tuple[float, float, float] | None
    label_grid: Literal["nearest", "bilinear"]
    min_max: bool
    keep_first_mask: bool
    input_side: Literal["short", "long"] = "short"
    label_order: Literal["palette", "value"] = "palette"


@dataclass(frozen=True)
class Effort:
    """What changes speed and memory, no result: frames a forward pass, threads that read them, torch device."""

    batch: int
    workers: int
    device: str


def input_size(height: int, width: int, reading: Reading, patch: int) -> tuple[int, int]:
    """(height, width) at which a frame enters the network; both sides end as multiples of the patch."""
    wanted, multiple = reading.input_px, reading.long_side_multiple_px
    if wanted is None:
        size = (height, width)
    elif isinstance(wanted, int):
        named, other = min(height, width), max(height, width)
        if reading.input_side == "long":
            named, other = other, named
        other = int(other * wanted / named // multiple * multiple)
        size = (wanted, other) if (width > height) == (reading.input_side == "short") else (other, wanted)
    else:
        size = wanted
    size = (size[0] // patch * patch, size[1] // patch * patch)
    if min(size) < patch:
        raise StageError(f"frames of {width}x{height} are left without a patch", do="raise input_px")
    return size


def masks_of(
    frames: Sequence[Path],
    first: Mask,
    encoder: Encoder,
    reading: Reading,
    rule: Rule,
    effort: Effort,
) -> Iterator[Mask]:
    """Predicted id maps (H, W) of every frame, in the source's size; the first comes from `first`, the true one."""
    source = (first.shape[0], first.shape[1])
    size = input_size(*source, reading, encoder.patch_size)
    grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
    ids, labels = first_labels(first, size, grid, reading.label_grid, reading.label_order)
    labels = labels.to(effort.device)
    yield first if reading.keep_first_mask else decode(labels, ids, size, source, reading.min_max)
    features = grids(frames, encoder, size, reading.pixel_std, effort)
    for soft in propagate(features, labels, rule):
        yield decode(soft, ids, size, source, reading.min_max)


def grids(
    frames: Sequence[Path],
    encoder: Encoder,
    size: tuple[int, int],
    std: Sequence[float] | None,
    effort: Effort,
) -> Iterator[Tensor]:
    """Patch features (h, w, D) frame by frame at input `size`, computed a few frames at a time."""

    def look(file: Path) -> NDArray[np.uint8]:
        image = np.array(read_rgb(file))
        return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)

    waiting: list[NDArray[np.uint8]] = []
    for number, frame in enumerate(ahead(look, frames, effort.workers)):
        waiting.append(frame)
        if len(waiting) == effort.batch or number == len(frames) - 1:
            pixels = torch.from_numpy(np.stack(waiting)).to(effort.device)
            yield from encoder.patches(normalised(pixels, encoder.mean, std or encoder.std))
            waiting = []


def size_notes(sizes: Iterable[tuple[int, int]], reading: Reading, patch: int) -> list[str]:
    """What frames are resized to, for each (height, width) there is."""
    notes = []
    for h, w in sorted(set(sizes)):
        height, width = input_size(h, w, reading, patch)
        notes.append(f"frames of {w}x{h} enter at {width}x{height}, a grid of {width // patch}x{height // patch} cells")
    return notes


def first_labels(
    truth: Mask,
    size: tuple[int, int],
    grid: tuple[int, int],
    how: Literal["nearest", "bilinear"],
    order: Literal["palette", "value"] = "palette",
) -> tuple[list[int], Tensor]:
    """Ids by channel and the first frame's soft labels (h, w, C).

    `nearest` (DINO): the mask goes straight to the grid, one channel per id up to the largest. `bilinear` (videowalk):
    the mask goes to the input size, one channel per id present, and the channels are interpolated down without
    smoothing, so that a cell sees only its four centre pixels. Channels are in order of value, or of palette colour
    (blue, green, red), which decides equal votes.
    """
    if how == "nearest":
        ids = list(range(int(truth.max()) + 1))
        small = np.array(Image.fromarray(truth).resize(grid[::-1], Image.Resampling.NEAREST))
        return ids, torch.from_numpy(small[..., None] == np.array(ids)).float()
    palette = np.array(pascal_palette()).reshape(256, 3)
    ids = sorted(np.unique(truth).tolist(), key=lambda i: tuple(palette[i][::-1]) if order == "palette" else i)
    large = cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST)
    channels = torch.from_numpy(large == np.array(ids, np.uint8)[:, None, None]).float()
    return ids, F.interpolate(channels[None], size=grid, mode="bilinear")[0].permute(1, 2, 0).contiguous()


def decode(soft: Tensor, ids: list[int], size: tuple[int, int], source: tuple[int, int], min_max: bool) -> Mask:
    """Id map in the source's size (nearest) of soft labels (h, w, C) interpolated to the input's size."""
    maps = F.interpolate(soft.permute(2, 0, 1)[None], size=size, mode="bilinear")[0]
    if min_max:
        maps = stretch(maps)
    found = np.array(ids, np.uint8)[maps.argmax(0).cpu().numpy()]
    return np.array(Image.fromarray(found).resize(source[::-1], Image.Resampling.NEAREST))


def stretch(maps: Tensor) -> Tensor:
    """Each channel of (C, H, W) to 0..1; a constant channel, which has no range, stays as it is."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(math.ulp(0.0)), maps)
