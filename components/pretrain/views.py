"""Views of a sample: draw where they lie and what colours do, then cut them.

Drawing needs only the frames' size, so the loader draws before it decodes. A sample's views are a function of its
frames, the plan and the generator, of nothing else: a resumed run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from components.pretrain.geometry import Box, centre_box, cut, decode_factor, random_resized_crop
from components.pretrain.photometric import Colour, apply_colour, draw_colour, with_other_sigma
from components.pretrain.plan import Crop, Photometric, ViewPlan

Arrays = dict[str, np.ndarray]
GEOMETRY = 5  # x0, y0, x1, y1 in pixels of the source frame, flip


class ViewDraw(NamedTuple):
    """One view of one frame: its box (in the clip crop's pixels where there is one), its flip, its colours."""

    box: Box
    flip: bool
    colour: Colour


@dataclass(frozen=True)
class SampleDraw:
    """All random choices of a sample.

    Attributes:
        height, width: size of the sample's frames in pixels.
        clip_box: the crop common to all frames, if the plan has one.
        views: per crop group, per view, per frame.
    """

    height: int
    width: int
    clip_box: Box | None
    views: dict[str, list[list[ViewDraw]]]


def make_views(frames: Sequence[np.ndarray], plan: ViewPlan, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Cut the views of one sample.

    Args:
        frames: the frames of the draw, uint8 RGB (H, W, 3), all of one size.
        plan: what to cut.
        rng: source of every random choice.

    Returns:
        Per crop group uint8 views (V, T, S, S, 3), and float32 geometry (V, T, 5): x0, y0, x1, y1 of the view in pixels
        of the source frame, and 1 where it was flipped (then the view's left edge is x1).
    """
    height, width = frames[0].shape[:2]
    draw = draw_views(height, width, plan, rng)
    views = {name: np.empty(shape, np.uint8) for name, shape in view_shapes(plan).items()}
    geometry = {name: np.empty((*view.shape[:2], GEOMETRY), np.float32) for name, view in views.items()}
    cut_views(frames, plan, draw, views, geometry)
    return views, geometry


def draw_views(height: int, width: int, plan: ViewPlan, rng: np.random.Generator) -> SampleDraw:
    """Make all random choices of one sample of frames of `height` x `width` pixels."""
    clip = plan.clip_crop
    clip_box = None if clip is None else random_resized_crop(height, width, clip.scale, clip.ratio, rng)
    size = (height, width) if clip is None else (clip.size_px, clip.size_px)
    return SampleDraw(height, width, clip_box, {crop.name: _draw_crop(*size, crop, rng) for crop in plan.crops})


def _draw_crop(height: int, width: int, crop: Crop, rng: np.random.Generator) -> list[list[ViewDraw]]:
    """Per view and frame a draw; what the frames share is drawn with the first of them."""
    views = []
    for recipe in crop.photometric:
        frames: list[ViewDraw] = []
        for _ in crop.frames:
            if frames and crop.shared_geometry:
                box, flip = frames[0].box, frames[0].flip
            else:
                box, flip = draw_box(height, width, crop, rng)
            colour = _draw_colour(recipe, crop, frames[0].colour if frames else None, rng)
            frames.append(ViewDraw(box, flip, colour))
        views.append(frames)
    return views


def draw_box(height: int, width: int, crop: Crop, rng: np.random.Generator) -> tuple[Box, bool]:
    """Where a view lies on an image of `height` x `width` pixels, and whether it is flipped."""
    if crop.whole:
        box = centre_box(height, width, crop.ratio)
    else:
        box = random_resized_crop(height, width, crop.scale, crop.ratio, rng)
    return box, rng.random() < crop.flip_p


def _draw_colour(recipe: Photometric, crop: Crop, first: Colour | None, rng: np.random.Generator) -> Colour:
    """The colours of one frame of a view, given those of its first frame, which it may share."""
    if first is None or not crop.shared_photometric:
        return draw_colour(recipe, rng)
    return with_other_sigma(first, recipe, rng) if crop.blur_sigma_per_frame else first


def smallest_decode(draw: SampleDraw, plan: ViewPlan) -> int:
    """How much smaller the frames may be decoded for these draws: 8, 4, 2 or 1 (see `decode_factor`)."""
    if draw.clip_box is not None and plan.clip_crop is not None:
        return decode_factor([(draw.clip_box, plan.clip_crop.size_px)])
    views = ((crop, frame) for crop in plan.crops for view in draw.views[crop.name] for frame in view)
    return decode_factor([(frame.box, crop.size_px) for crop, frame in views])


def view_shapes(plan: ViewPlan) -> dict[str, tuple[int, ...]]:
    """Shape of each crop group: (views, frames, size, size, 3)."""
    return {c.name: (len(c.photometric), len(c.frames), c.size_px, c.size_px, 3) for c in plan.crops}


class Canvas(NamedTuple):
    """What views are cut from (the decoded frames, or their common clip crop) and where it lies in the source frame.

    Attributes:
        images: uint8 (h, w, 3), one a frame.
        left, top: the canvas's corner, in pixels of the source frame.
        step_x, step_y: source pixels per canvas pixel.
    """

    images: Sequence[np.ndarray]
    left: float
    top: float
    step_x: float
    step_y: float

    def in_source(self, box: Box) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of a box of the canvas, in pixels of the source frame."""
        x0, y0 = self.left + self.step_x * box.x, self.top + self.step_y * box.y
        return x0, y0, x0 + self.step_x * box.w, y0 + self.step_y * box.h


def cut_views(
    frames: Sequence[np.ndarray],
    plan: ViewPlan,
    draw: SampleDraw,
    views: Mapping[str, np.ndarray],
    geometry: Mapping[str, np.ndarray],
    factor: int = 1,
) -> None:
    """Carry out a draw, into `views` (V, T, S, S, 3) and `geometry` (V, T, 5) of each crop group.

    Args:
        factor: the frames were decoded at 1/factor of the size they were drawn for. Boxes move to that grid, and the
            geometry tells where they then lie in the whole frame.
    """
    canvas = _canvas(frames, plan, draw, factor)
    for crop in plan.crops:
        for v, view in enumerate(draw.views[crop.name]):
            for t, (position, one) in enumerate(zip(crop.frames, view, strict=True)):
                box = one.box if draw.clip_box else one.box.reduced(factor, draw.height, draw.width)
                pixels = cut(canvas.images[position], box, crop.size_px)
                pixels = cv2.flip(pixels, 1) if one.flip else pixels
                views[crop.name][v, t] = apply_colour(pixels, one.colour)
                geometry[crop.name][v, t] = (*canvas.in_source(box), one.flip)


def _canvas(frames: Sequence[np.ndarray], plan: ViewPlan, draw: SampleDraw, factor: int) -> Canvas:
    if draw.clip_box is None or plan.clip_crop is None:
        return Canvas(frames, 0.0, 0.0, factor, factor)
    size = plan.clip_crop.size_px
    box = draw.clip_box.reduced(factor, draw.height, draw.width)
    clip = [cut(frame, box, size) for frame in frames]
    return Canvas(clip, box.x * factor, box.y * factor, box.w * factor / size, box.h * factor / size)
