"""The object that a sample is about: which one, crops that show it, and its patches in each crop.

After ODIS (arXiv:2506.05409) and the object loaders of Cross-Time Self-Distillation, with its defects left out: the
object is one track (or category) that every frame of the sample has, and a crop that does not show it says so.

A view sees a source pixel if a nearest-neighbour resize would take it, so boxes give the patches that a label map
painted with them would give. Boxes that overlap all count whole; in the released code the later painted one hides the
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from components.common.clip_index import ClipIndex
from components.common.errors import StageError
from components.common.object_index import FrameObjects
from components.pretrain.geometry import Box
from components.pretrain.plan import Crop, ObjectTargets, ViewPlan
from components.pretrain.views import Arrays, Canvas, SampleDraw, ViewDraw, draw_box

Read = Callable[[int, int, int], bytes]  # a label map from its shard, offset and size


class Region(NamedTuple):
    """What an object covers in one frame: pixels of a label map with one of `values`, or, without a map, boxes.

    Attributes:
        boxes: float (n, 4), x0, y0, x1, y1 in pixels of the frame, ends exclusive.
        labels: integers (H, W), or None.
        values: its numbers in `labels`.
    """

    boxes: np.ndarray
    labels: np.ndarray | None
    values: np.ndarray

    def share(self, pixels: Pixels) -> float:
        """Share of a view's pixels that show the object."""
        if self.labels is None and len(self.boxes) == 1:  # the usual case needs no picture
            down, across = self._sides(pixels)
            return float(down.mean() * across.mean())
        return float(self.seen(pixels).mean())

    def patches(self, pixels: Pixels, patch_px: int) -> np.ndarray:
        """bool (g, g): which patches of a view show any of it."""
        grid = len(pixels.rows) // patch_px
        if self.labels is None:
            sides = (side.reshape(-1, grid, patch_px) for side in self._sides(pixels))
            down, across = (np.asarray(side.any(axis=2)) for side in sides)
            return np.asarray((down[:, :, None] & across[:, None, :]).any(axis=0))
        return np.asarray(self.seen(pixels).reshape(grid, patch_px, grid, patch_px).any(axis=(1, 3)))

    def seen(self, pixels: Pixels) -> np.ndarray:
        """bool (S, S): which pixels of a view show it. Of a box, those whose centre lies in it."""
        if self.labels is not None:
            return np.isin(self.labels[pixels.rows][:, pixels.columns], self.values)
        down, across = self._sides(pixels)
        return np.asarray((down[:, :, None] & across[:, None, :]).any(axis=0))

    def _sides(self, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
        """bool (n, S) twice: which rows and which columns lie in each box."""
        x0, y0, x1, y1 = self.boxes.T[..., None] - 0.5
        return (y0 <= pixels.rows) & (pixels.rows < y1), (x0 <= pixels.columns) & (pixels.columns < x1)


class Pixels(NamedTuple):
    """Rows and columns of the source frame that a view takes when it is resized by nearest neighbours: int64 (S,)."""

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, view: Sequence[float], size_px: int) -> Pixels:
        """Those of a view (x0, y0, x1, y1, flip) of `size_px` pixels a side."""
        x0, y0, x1, y1, flip = view
        middles = (np.arange(size_px) + 0.5) / size_px
        rows, columns = ((low + middles * (high - low)).astype(np.int64) for low, high in ((y0, y1), (x0, x1)))
        return cls(rows, columns[::-1] if flip else columns)


Candidates = Mapping[int, Mapping[int, Region]]  # by track or category: its region in each used frame of the sample


def check_objects(index: ClipIndex, plan: ViewPlan) -> None:
    """Refuse an index that knows of no objects where the plan requires them."""
    if plan.objects is not None and plan.objects.required and not index.objects:
        do = "give the corpus tracks (extract_frames), or let the method find objects by itself"
        raise StageError("the index knows of no objects, the method's views need them", where=index.path, do=do)


def object_shapes(plan: ViewPlan) -> dict[str, tuple[int, ...]]:
    """Shape of each crop group's object patches: (views, frames, g, g)."""
    if plan.objects is None:
        return {}
    return {crop.name: (len(crop.photometric), len(crop.frames), *[plan.grid(crop)] * 2) for crop in plan.crops}


def candidates(plan: ViewPlan, frames: Sequence[FrameObjects], read: Read) -> Candidates:
    """What may be the target of a sample: what all frames have from which the plan cuts views.

    Args:
        frames: the objects of each frame of the sample.
        read: gives a label map; asked only for frames with candidates.
    """
    assert plan.objects is not None
    used = sorted({position for crop in plan.crops for position in crop.frames})
    names = {at: frames[at].track if plan.objects.by == "track" else frames[at].category for at in used}
    common = sorted(set.intersection(*(set(names[at].tolist()) for at in used)))
    if not common:
        return {}
    labels = {at: _label_map(place, read) if (place := frames[at].labels) else None for at in used}
    return {
        name: {at: _region(frames[at], names[at] == name, labels[at]) for at in used}
        for name in common
    }  # fmt: skip


def _region(frame: FrameObjects, mine: np.ndarray, labels: np.ndarray | None) -> Region:
    return Region(frame.box[mine], labels, frame.track[mine] + 1)


def _label_map(place: tuple[int, int, int], read: Read) -> np.ndarray:
    labels = cv2.imdecode(np.frombuffer(read(*place), np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        raise StageError("a label map of the frame store cannot be decoded", do="extract the frames again")
    return labels


def aim(
    draw: SampleDraw, plan: ViewPlan, found: Candidates, rng: np.random.Generator
) -> tuple[SampleDraw, Mapping[int, Region] | None]:
    """Choose the target and move the boxes of crops that should show it (`ObjectTargets` says how).

    Returns:
        The sample's draw with other boxes, and the target's regions; the draw as it was, and None, where no crop within
        the tries was covered by any candidate. `rng` serves further tries only: a box that was good at once stays.
    """
    if plan.objects is None or not found:
        return draw, None
    targets, sight, target = plan.objects, _Sight(draw, plan, plan.objects), None
    crops = {crop.name: crop for crop in plan.crops}
    views = {name: [list(view) for view in group] for name, group in draw.views.items()}
    for name in targets.aware:
        for view, slot in _slots(crops[name], views[name]):
            boxes = sight.boxes(crops[name], view[slot[0]].box, targets.tries[target is not None], rng)
            if target is None:
                box, target = sight.choose(boxes, crops[name], slot, found, rng)
                if target is None:
                    return draw, None
            else:
                shown = (box for box in boxes if sight.shows(target, crops[name], slot, box))
                box = next(shown, view[slot[0]].box)
            for at in slot:
                view[at] = view[at]._replace(box=box)
    return replace(draw, views=views), target


def _slots(crop: Crop, views: list[list[ViewDraw]]) -> Iterator[tuple[list[ViewDraw], list[int]]]:
    """Each view of a group with the places of its frames that share one box."""
    places = list(range(len(crop.frames)))
    for view in views:
        for slot in [places] if crop.shared_geometry else [[at] for at in places]:
            yield view, slot


class _Sight:
    """What boxes drawn for a sample would show."""

    def __init__(self, draw: SampleDraw, plan: ViewPlan, targets: ObjectTargets) -> None:
        self.targets = targets
        self.size, self.canvas = (draw.height, draw.width), Canvas((), 0.0, 0.0, 1.0, 1.0)
        if draw.clip_box is not None and plan.clip_crop is not None:
            clip, side = draw.clip_box, plan.clip_crop.size_px
            self.size, self.canvas = (side, side), Canvas((), clip.x, clip.y, clip.w / side, clip.h / side)

    def boxes(self, crop: Crop, drawn: Box, tries: int, rng: np.random.Generator) -> Iterator[Box]:
        """The box that was drawn, then others like it: `tries` in all."""
        yield drawn
        for _ in range(0 if crop.whole else tries - 1):
            yield draw_box(*self.size, crop, rng)[0]

    def choose(
        self, boxes: Iterator[Box], crop: Crop, slot: list[int], found: Candidates, rng: np.random.Generator
    ) -> tuple[Box, Mapping[int, Region] | None]:
        """The first box that a candidate covers enough, and the one that is chosen; else the last box, and None."""
        for box in boxes:
            pixels = self.pixels(crop, box)
            shares = {name: share(regions, crop, slot, pixels) for name, regions in found.items()}
            enough = [name for name, share in shares.items() if share > self.targets.min_share]
            if enough:
                largest = max(enough, key=lambda name: shares[name])
                return box, found[largest if self.targets.choice == "largest" else int(rng.choice(enough))]
        return box, None

    def shows(self, regions: Mapping[int, Region], crop: Crop, slot: list[int], box: Box) -> bool:
        """Whether a box shows an object in every frame of the slot."""
        return share(regions, crop, slot, self.pixels(crop, box)) > 0

    def pixels(self, crop: Crop, box: Box) -> Pixels:
        """What a box would take of the source frame; mirrored or not, it shows as much."""
        return Pixels.of((*self.canvas.in_source(box), 0.0), crop.size_px)


def share(regions: Mapping[int, Region], crop: Crop, slot: list[int], pixels: Pixels) -> float:
    """Share of a view's pixels that show an object, in that frame of the slot which shows least of it."""
    return min(regions[crop.frames[at]].share(pixels) for at in slot)


def object_patches(
    plan: ViewPlan, geometry: Arrays, target: Mapping[int, Region], rng: np.random.Generator, patches: Arrays
) -> None:
    """Fill in which patches of each view belong to the target; none where the view does not show it.

    Args:
        geometry: float (V, T, 5) of each crop group, where its views lie in the source frames.
        patches: bool (V, T, g, g) of each crop group, written to.
    """
    assert plan.objects is not None and plan.patch_px is not None
    for crop in plan.crops:
        for v, t in np.ndindex(geometry[crop.name].shape[:2]):
            margin = plan.objects.margin
            if plan.objects.margin_draw == "random":
                margin = int(rng.integers(margin + 1))
            pixels = Pixels.of(geometry[crop.name][v, t].tolist(), crop.size_px)
            touched = target[crop.frames[t]].patches(pixels, plan.patch_px)
            patches[crop.name][v, t] = grown(touched, margin, plan.objects.shape == "box")


def grown(touched: np.ndarray, margin: int, as_boxes: bool) -> np.ndarray:
    """Patches (g, g) with a margin: around the rectangle of each piece (8-connected), or around the patches."""
    picture = touched.astype(np.uint8)
    if not as_boxes:
        side = 2 * margin + 1
        return np.asarray(cv2.dilate(picture, np.ones((side, side), np.uint8)), dtype=bool)
    whole = np.zeros_like(touched)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(picture, connectivity=8)
    for x, y, w, h, _ in pieces[1:].tolist():
        whole[max(0, y - margin) : y + h + margin, max(0, x - margin) : x + w + margin] = True
    return whole
