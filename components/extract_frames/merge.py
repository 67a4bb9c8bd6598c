"""The merge: the stores that pods made of their parts, put together as one run would have written them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.common import outputs
from components.common.context import Context
from components.common.errors import StageError
from components.common.frame_store import VIDEOS, FrameStore
from components.common.frame_store_merge import merge_stores, read_batches
from components.common.frame_store_rows import VIDEO_COLUMNS
from components.common.frame_store_writer import BAD, VideoRow, content_hash
from components.extract_frames.config import ExtractParams
from components.extract_frames.finished import check_share
from components.extract_frames.parts import find_parts, in_order


def merge(ctx: Context) -> None:
    """Run the stage on ctx.inputs["merge"], write ctx.outputs["frames"]; in whatever order the parts were given."""
    params, folder = ctx.params, ctx.inputs["merge"]
    assert isinstance(params, ExtractParams) and folder is not None
    parts = in_order(find_parts(folder), params)
    for part in parts:
        if ctx.places["frames"].resolve() == part.resolve():
            raise StageError("output 'frames' would replace a part", where=ctx.places["frames"])
    manifests = [FrameStore(part).manifest for part in parts]
    n_bad, n_videos = (sum(manifest[name] for manifest in manifests) for name in ("videos_bad", "videos"))
    check_share(_bad_videos(parts), n_bad, n_videos, params.max_bad_share)
    outputs.remove(ctx.outputs["frames"])  # a killed run's; links are made anew as quickly as they are checked
    totals = merge_stores(parts, ctx.outputs["frames"])
    ctx.contents["frames"] = content_hash(ctx.outputs["frames"])
    ctx.note("frames", n_frames=totals["frames"], n_videos=n_videos, n_bad=n_bad)
    ctx.log(f"{totals['frames']} frames of {n_videos - n_bad} videos in {len(parts)} parts, {n_bad} skipped")


def _bad_videos(parts: list[Path]) -> Iterator[VideoRow]:
    for part in parts:
        for table in read_batches(part / VIDEOS, VIDEO_COLUMNS):
            for row in table.to_pylist():
                if row["status"] == BAD:
                    yield VideoRow(key=row["key"], path=row["path"], status=BAD, reason=row["reason"])
