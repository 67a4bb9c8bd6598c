"""From a frame store to batches on the device: read, decode, cut and colour in the workers; normalise on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import Dataset

from components.common.clip_index import ClipIndex, FrameRow
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.pretrain.masking import draw_masks, mask_shapes
from components.pretrain.objects import Candidates, aim, candidates, check_objects, object_patches, object_shapes
from components.pretrain.plan import RangeTimes, ViewPlan
from components.pretrain.sampler import OBJECT_STREAM, TIME_STREAM, VIEW_STREAM, Key
from components.pretrain.timing import draw_frames, too_short
from components.pretrain.views import GEOMETRY, Arrays, cut_views, draw_views, smallest_decode, view_shapes


class Batch(NamedTuple):
    """A batch as the workers make it; one sample of it lacks the first axis.

    Attributes:
        views: per crop group uint8 (B, views, frames, S, S, 3).
        geometry: per crop group float32 (B, views, frames, 5): x0, y0, x1, y1 in pixels of the source frame, flip.
        masks: per masked crop group bool (B, views, frames, g, g) of patches, True where hidden from the student.
        objects: with target objects, per crop group bool (B, views, frames, g, g) of patches, True where it shows.
        samples: int64 (B,), numbers of the samples.
    """

    views: dict[str, Tensor]
    geometry: dict[str, Tensor]
    masks: dict[str, Tensor]
    objects: dict[str, Tensor]
    samples: Tensor


class ClipDataset(Dataset[Batch]):
    """The samples of one draw of an index, as views.

    Holds no object a frame, and may be forked or pickled into any number of workers.

    Args:
        frames: folder of the frame store.
        index: folder of the clip index over that store.
        plan: the draw and the views to cut.
        seed: every random choice comes from (seed, epoch, sample).
        decode_scaled: decode a sample's JPEGs at 1/2, 1/4 or 1/8 where no view is scaled up for that reason. It takes
            about half the time (1.4 -> 0.8 ms at 854x480); nothing changes on frames near the views' size. What is
            lost: views are resampled twice and so a little softer (2-3 levels of 255 from Pillow's on sharp frames
            instead of 1-2; libjpeg's part is 0.3), and box edges lie on a grid of 2, 4 or 8 pixels (see geometry).

    Raises:
        StageError: a folder is missing or damaged, or the draw does not give the frames that the plan takes.
    """

    def __init__(self, frames: Path, index: Path, plan: ViewPlan, seed: int, decode_scaled: bool = True) -> None:
        self.store, self.index = FrameStore(frames), ClipIndex.open(index)
        self.plan, self.seed, self.decode_scaled = plan, seed, decode_scaled
        made_from = self.index.meta.get("frame_store", self.store.fingerprint)
        if made_from != self.store.fingerprint or len(self.index) != self.store.n_frames:
            raise StageError("the index was made from other frames", where=index, do="run the stage 'index' again")
        check_draw(self.index, plan)
        check_objects(self.index, plan)

    def __len__(self) -> int:
        return len(self.index.draw(self.plan.draw)) * (1 + self.plan.both_ways)

    def __getitem__(self, key: Key) -> Batch:
        """One sample; raises StageError naming video, time and shard of a frame that cannot be used."""
        batch = self.batch([key])
        views, geometry, masks, objects = ({name: t[0] for name, t in group.items()} for group in batch[:4])
        return Batch(views, geometry, masks, objects, batch.samples[0])

    def __getitems__(self, keys: list[Key]) -> Batch | StageError:
        """A batch, or what went wrong: an error raised in a worker would arrive as the text of its traceback."""
        try:
            return self.batch(keys)
        except StageError as error:
            return error

    def batch(self, keys: list[Key]) -> Batch:
        """Several samples, each view cut straight into its place: stacking would copy them once more."""
        n, shapes = len(keys), view_shapes(self.plan)
        views = {name: torch.empty((n, *shape), dtype=torch.uint8) for name, shape in shapes.items()}
        geometry = {name: torch.empty((n, *s[:2], GEOMETRY), dtype=torch.float32) for name, s in shapes.items()}
        masks = {name: torch.empty((n, *s), dtype=torch.bool) for name, s in mask_shapes(self.plan).items()}
        objects = {name: torch.zeros((n, *s), dtype=torch.bool) for name, s in object_shapes(self.plan).items()}
        places = [{name: t.numpy() for name, t in group.items()} for group in (views, geometry, masks, objects)]
        drawn = [self.frames(key) for key in keys]
        if self.store.is_remote:
            self._prefetch(drawn)
        for b, (key, frames) in enumerate(zip(keys, drawn, strict=True)):
            self._fill(key, frames, *({name: array[b] for name, array in group.items()} for group in places))
        return Batch(views, geometry, masks, objects, torch.tensor([key.sample for key in keys]))

    def frames(self, key: Key) -> np.ndarray:
        """The frames of a sample, as rows of the index: int64 (n_frames,).

        The two ways through a row take the same frames in one epoch.
        """
        plan, sample = self.plan, key.sample
        number, reverse = divmod(sample, 2) if plan.both_ways else (sample, 0)
        row = self.index.draw(plan.draw)[number]
        if plan.timing is not None:
            rng = np.random.default_rng((TIME_STREAM, self.seed, key.epoch, number))
            row = draw_frames(plan.timing, row, self.index.columns, rng)
        return row[::-1] if reverse else row

    def _prefetch(self, drawn: list[np.ndarray]) -> None:
        """Ask for all frames of a batch at once: one after another, each would wait some 20 ms for the store."""
        rows = self.index.rows(np.concatenate(drawn))
        self.store.prefetch((row.shard, row.offset, row.size) for row in rows)

    def _fill(
        self, key: Key, frames: np.ndarray, views: Arrays, geometry: Arrays, masks: Arrays, objects: Arrays
    ) -> None:
        rows = self.index.rows(frames)
        height, width = self._size(rows)
        rng = np.random.default_rng((VIEW_STREAM, self.seed, key.epoch, key.sample))
        draw = draw_views(height, width, self.plan, rng)
        chance = np.random.default_rng((OBJECT_STREAM, self.seed, key.epoch, key.sample))
        draw, target = aim(draw, self.plan, self._candidates(frames), chance)
        factor = smallest_decode(draw, self.plan) if self.decode_scaled else 1
        cut_views([self._frame(row, factor) for row in rows], self.plan, draw, views, geometry, factor)
        for name, mask in draw_masks(self.plan, key, self.seed).items():
            masks[name][...] = mask
        if target is not None:
            object_patches(self.plan, geometry, target, chance, objects)

    def _candidates(self, frames: np.ndarray) -> Candidates:
        if self.plan.objects is None or self.index.objects is None:
            return {}
        return candidates(self.plan, [self.index.objects.of(int(row)) for row in frames], self.store.read)

    def _size(self, rows: list[FrameRow]) -> tuple[int, int]:
        """(height, width) of frames drawn together; they share crops, so they must share their size."""
        sizes = {(row.height, row.width) for row in rows}
        if len(sizes) > 1:
            what = f"frames of two sizes are drawn together, {' and '.join(f'{w}x{h}' for h, w in sorted(sizes))}"
            raise StageError(f"{what}, in video '{self._video(rows[0])}'", where=self.store.path)
        return sizes.pop()

    def _frame(self, row: FrameRow, factor: int) -> np.ndarray:
        data = self.store.read(row.shard, row.offset, row.size)
        try:
            return decode(data, row.height, row.width, factor)
        except ValueError as error:
            what = f"the frame at {row.pts_s:.3f} s of video '{self._video(row)}' cannot be decoded, {error}"
            raise StageError(what, where=self.store.where(row.shard), do="extract the frames again") from None

    def _video(self, row: FrameRow) -> str:
        return str(self.store.videos["key"][row.video].as_py())


def decode(data: bytes, height: int, width: int, factor: int = 1) -> np.ndarray:
    """Decode a JPEG of `height` x `width` pixels at 1/factor of its size (1, 2, 4 or 8): uint8 RGB (h, w, 3).

    A pixel of the smaller image stands for factor x factor pixels of the whole; a rim of width % factor pixels becomes
    one more column (libjpeg rounds up). Raises ValueError when the data is damaged or of another size.
    """
    smaller = (math.ceil(height / factor), math.ceil(width / factor))
    if factor == 1:
        image = simplejpeg.decode_jpeg(data)
    else:
        image = simplejpeg.decode_jpeg(data, min_height=smaller[0], min_width=smaller[1], min_factor=factor)
    if image.shape[:2] != smaller:
        raise ValueError(f"it is {image.shape[1]}x{image.shape[0]}, expected {smaller[1]}x{smaller[0]}")
    return image


def check_draw(index: ClipIndex, plan: ViewPlan) -> None:
    """Refuse a plan whose frames the draw does not give; StageError says what the index would need."""
    rows, entry = index.draw(plan.draw), index.meta["draws"][plan.draw]
    where, name = index.path, f"draw '{plan.draw}'"
    if isinstance(plan.timing, RangeTimes):
        low_s, high_s = plan.timing.low_s, plan.timing.high_s
        given = entry.get("ranges_s", [])
        if len(given) != 1 or not low_s <= given[0][0] <= given[0][1] <= high_s:
            what = f"{name} does not say which frames have another {low_s:g} to {high_s:g} s later"
            raise StageError(what, where=where, do=f"give it ranges_s: [[{low_s:g}, {high_s:g}]] in index.draws")
        return
    spans = "span" in entry
    if spans != (plan.timing is not None):
        what = f"{name} {'has' if spans else 'has no'} spans, the method's views need {'frames' if spans else 'spans'}"
        raise StageError(what, where=where, do="change index.draws or the method's arguments")
    if plan.timing is None and rows.shape[1] != plan.n_frames:
        what = f"{name} has {rows.shape[1]} frames, the method's views need {plan.n_frames}"
        raise StageError(what, where=where, do="change index.draws or the method's arguments")
    if plan.timing is not None:
        short = int(too_short(plan.timing, rows, index.columns["pts_s"]).sum())
        if short:
            what = f"{short} of the {len(rows)} spans of {name} are too short for {plan.timing}"
            raise StageError(what, where=where, do=f"set min_frames or min_s of index.draws.{plan.draw}")


def to_device(
    batch: Batch, device: torch.device, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Move a batch and normalise its views there.

    Bytes cross the bus, a quarter of what floats would be; `mean` and `std` are of RGB in 0..1.

    Returns:
        Per crop group `<name>`, normalised (B, views, frames, 3, S, S); `<name>_box`, its geometry; and `<name>_mask`
        and `<name>_object` where the plan asks for masks and objects (see `Batch`).
    """
    middle, spread = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (mean, std))
    scale, shift = 1 / (255 * spread), middle / spread
    ready = {name: _normalise(views, device, scale, shift) for name, views in batch.views.items()}
    for suffix, group in (("box", batch.geometry), ("mask", batch.masks), ("object", batch.objects)):
        ready |= {f"{name}_{suffix}": tensor.to(device, non_blocking=True) for name, tensor in group.items()}
    return ready


def _normalise(views: Tensor, device: torch.device, scale: Tensor, shift: Tensor) -> Tensor:
    channels_first = views.to(device, non_blocking=True).permute(0, 1, 2, 5, 3, 4)
    return channels_first.to(scale.dtype, memory_format=torch.contiguous_format).mul_(scale).sub_(shift)
