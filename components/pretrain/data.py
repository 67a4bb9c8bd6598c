"""From a frame store to batches on the device: read, decode, cut and colour in the workers; normalise on the device."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.common.clip_index import ClipIndex, FrameRow
from components.common.errors import ExitCode, StageError
from components.common.frame_store import FrameStore
from components.pretrain.parallel import end_with_trainer
from components.pretrain.plan import ViewPlan
from components.pretrain.sampler import VIEW_STREAM, EpochSampler, Key
from components.pretrain.views import GEOMETRY, Arrays, cut_views, draw_views, smallest_decode, view_shapes

__all__ = ["Batch", "ClipDataset", "EpochSampler", "Loader", "make_loader", "to_device"]


class Batch(NamedTuple):
    """A batch as the workers make it; one sample of it lacks the first axis.

    Attributes:
        views: per crop group uint8 (B, views, frames, S, S, 3).
        geometry: per crop group float32 (B, views, frames, 5): x0, y0, x1, y1 in pixels of the source frame, flip.
        samples: int64 (B,), rows of the index's draw.
    """

    views: dict[str, Tensor]
    geometry: dict[str, Tensor]
    samples: Tensor


class ClipDataset(Dataset[Batch]):
    """The samples of one draw of an index, as views. Keys are (epoch, sample).

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
        StageError: a folder is missing or damaged, or the draw has another number of frames than the plan.
    """

    def __init__(self, frames: Path, index: Path, plan: ViewPlan, seed: int, decode_scaled: bool = True) -> None:
        self.store, self.index = FrameStore(frames), ClipIndex.open(index)
        self.plan, self.seed, self.decode_scaled = plan, seed, decode_scaled
        made_from = self.index.meta.get("frame_store", self.store.fingerprint)
        if made_from != self.store.fingerprint or len(self.index) != self.store.n_frames:
            raise StageError("the index was made from other frames", where=index, do="run the stage 'index' again")
        n_frames = self.index.draw(plan.draw).shape[1]
        if n_frames != plan.n_frames:
            what = f"draw '{plan.draw}' has {n_frames} frames, the method's views need {plan.n_frames}"
            raise StageError(what, where=index, do="change index.draws or the method's arguments")

    def __len__(self) -> int:
        return len(self.index.draw(self.plan.draw))

    def __getitem__(self, key: Key) -> Batch:
        """One sample; raises StageError naming video, time and shard of a frame that cannot be used."""
        batch = self.batch([key])
        views, geometry = ({name: t[0] for name, t in group.items()} for group in (batch.views, batch.geometry))
        return Batch(views, geometry, batch.samples[0])

    def __getitems__(self, keys: list[Key]) -> Batch | StageError:
        """A batch, or what went wrong: an error raised in a worker would arrive as the text of its traceback."""
        try:
            return self.batch(keys)
        except StageError as error:
            return error

    def batch(self, keys: list[Key]) -> Batch:
        """Several samples, each view cut straight into its place: stacking would copy them once more."""
        shapes = {name: (len(keys), *shape) for name, shape in view_shapes(self.plan).items()}
        views = {name: torch.empty(shape, dtype=torch.uint8) for name, shape in shapes.items()}
        geometry = {name: torch.empty((*shape[:3], GEOMETRY), dtype=torch.float32) for name, shape in shapes.items()}
        places = [{name: tensor.numpy() for name, tensor in group.items()} for group in (views, geometry)]
        if self.store.is_remote:
            self._prefetch(keys)
        for b, key in enumerate(keys):
            self._fill(key, *({name: array[b] for name, array in group.items()} for group in places))
        return Batch(views, geometry, torch.tensor([sample for _, sample in keys]))

    def _prefetch(self, keys: list[Key]) -> None:
        """Ask for all frames of a batch at once: one after another, each would wait some 20 ms for the store."""
        rows = self.index.rows(self.index.draw(self.plan.draw)[[sample for _, sample in keys]])
        self.store.prefetch((row.shard, row.offset, row.size) for row in rows)

    def _fill(self, key: Key, views: Arrays, geometry: Arrays) -> None:
        epoch, sample = key
        rows = self.index.rows(self.index.draw(self.plan.draw)[sample])
        height, width = self._size(rows)
        rng = np.random.default_rng((VIEW_STREAM, self.seed, epoch, sample))
        draw = draw_views(height, width, self.plan, rng)
        factor = smallest_decode(draw, self.plan) if self.decode_scaled else 1
        cut_views([self._frame(row, factor) for row in rows], self.plan, draw, views, geometry, factor)

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


class Loader:
    """Iterates over batches and counts the seconds that the reader waited for them.

    Attributes:
        wait_s: seconds spent waiting so far.
    """

    def __init__(self, batches: DataLoader[Any]) -> None:
        self._batches, self.wait_s = batches, 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        for _ in range(len(self)):
            began = time.perf_counter()
            batch = _next(batches)
            self.wait_s += time.perf_counter() - began
            yield batch


def _next(batches: Iterator[Batch | StageError]) -> Batch:
    try:
        batch = next(batches)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        what = f"a loader worker died, {str(error).splitlines()[0]}"
        do = "give the machine more memory or shared memory (/dev/shm), or use fewer workers"
        raise StageError(what, do=do, code=ExitCode.NO_ROOM) from None
    if isinstance(batch, StageError):
        raise batch
    return batch


def make_loader(
    dataset: ClipDataset,
    sampler: EpochSampler,
    workers: int,
    device: torch.device,
    prefetch_batches: int = 2,
    start_method: str = "forkserver",
) -> Loader:
    """A loader over the sampler's batches, in the sampler's order whatever the number of workers.

    One pass covers all of training, across epochs: workers are started once and never wait for an epoch's end.

    Args:
        workers: processes beside this one; 0 does the work here, between steps.
        device: where batches will go; for CUDA they arrive in pinned memory.
        prefetch_batches: batches each worker keeps ready.
        start_method: how workers start. Forking a process that holds CUDA or threads of its own may deadlock, so it is
            a clean server that forks.
    """
    options: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload([__name__])  # torch and OpenCV are imported once, not once a worker
        options = {"prefetch_factor": prefetch_batches, "multiprocessing_context": context}
    batches = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        worker_init_fn=end_with_trainer if workers else None,
        collate_fn=_as_is,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
        **options,
    )
    return Loader(batches)


def _as_is(batch: Any) -> Any:
    """Batches leave the dataset whole; there is nothing to collate."""
    return batch


def to_device(
    batch: Batch, device: torch.device, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Move the views of a batch and normalise them there: per crop group (B, views, frames, 3, S, S).

    Bytes cross the bus, a quarter of what floats would be; `mean` and `std` are of RGB in 0..1.
    """
    middle, spread = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (mean, std))
    scale, shift = 1 / (255 * spread), middle / spread
    return {name: _normalise(views, device, scale, shift) for name, views in batch.views.items()}


def _normalise(views: Tensor, device: torch.device, scale: Tensor, shift: Tensor) -> Tensor:
    channels_first = views.to(device, non_blocking=True).permute(0, 1, 2, 5, 3, 4)
    return channels_first.to(scale.dtype, memory_format=torch.contiguous_format).mul_(scale).sub_(shift)
