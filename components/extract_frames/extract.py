"""The stage: find the videos, extract each into a part on one core, put the parts together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from components.common.context import Context
from components.common.errors import StageError
from components.common.frame_store_writer import BAD, VideoRow
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source, find_sources
from components.extract_frames.parts import Parts, assemble, check_share
from components.extract_frames.video import Decoder

MEGABYTE = 10**6


def extract(ctx: Context) -> None:
    """Run the stage on ctx.inputs["videos"], write ctx.outputs["frames"]."""
    params = ctx.params
    assert isinstance(params, ExtractParams)
    folder = ctx.inputs["videos"]
    assert folder is not None
    sources = find_sources(folder, image_folders=params.source_fps is not None)
    if not sources:
        do = "put video files there; folders of images need 'source_fps'"
        raise StageError("no video file in this folder", where=folder, do=do)
    parts = Parts(ctx.cache)
    bad = make_parts(ctx, sources, parts, params)
    check_share(bad, len(sources), params.max_bad_share)
    for row in bad.values():
        ctx.warn(f"skipped {row.path}: {row.reason}")
    frames = assemble(sources, bad, parts, ctx.outputs["frames"], params.shard_mb * MEGABYTE)
    ctx.note("frames", n_frames=frames, n_videos=len(sources), n_bad=len(bad))
    ctx.log(f"{frames} frames of {len(sources) - len(bad)} videos, {len(bad)} skipped")


def make_parts(ctx: Context, sources: list[Source], parts: Parts, params: ExtractParams) -> dict[str, VideoRow]:
    """Extract what no earlier run has finished; returns the bad videos by key, in the sources' order.

    Threads suffice: ffmpeg does the work, hashing and file reads let go of the interpreter lock, and what is left in
    Python is some 30 microseconds a stored frame. Long videos go first, so that no core waits for one at the end.
    """
    todo = sorted((s for s in sources if not parts.has(s)), key=lambda s: (-s.size, s.key))
    bad: dict[str, VideoRow] = {}
    frames, start = 0, time.monotonic()
    with (
        ctx.progress(len(sources), "videos", done=len(sources) - len(todo)) as progress,
        _crew(params) as (pool, decoder),
    ):
        jobs = {pool.submit(parts.make, source, decoder): source for source in todo}
        for job in as_completed(jobs):
            source, row = jobs[job], job.result()
            if row.status == BAD:
                bad[source.key] = row
            else:
                frames += parts.n_frames(source)
            rate = frames / (time.monotonic() - start)
            progress.update(1, **{"frames": frames, "frames/s": rate, "skipped": len(bad)})
    if frames:
        ctx.tracker.metrics({"frames_per_s": frames / (time.monotonic() - start)})
    return {source.key: bad[source.key] for source in sources if source.key in bad}


@contextmanager
def _crew(params: ExtractParams) -> Iterator[tuple[ThreadPoolExecutor, Decoder]]:
    """Worker threads and their decoder; on any error, Ctrl-C included, what runs is ended and what waits dropped."""
    decoder = Decoder(params)
    with ThreadPoolExecutor(params.workers or len(os.sched_getaffinity(0))) as pool:
        try:
            yield pool, decoder
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            decoder.stop()
            raise
