"""The stage: find the videos, extract each on one core, put their frames together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from components.common.context import Context
from components.common.cores import usable_cores
from components.common.errors import StageError
from components.common.frame_store_writer import BAD, VideoRow, content_hash
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source, find_sources
from components.extract_frames.finished import Finished, assemble, check_share
from components.extract_frames.parts import Part, cut, params_hash, parse_part
from components.extract_frames.video import Decoder

MEGABYTE = 10**6


def extract(ctx: Context) -> None:
    """Run the stage on ctx.inputs["videos"], write ctx.outputs["frames"]: the whole corpus, or one part of it."""
    params = ctx.params
    assert isinstance(params, ExtractParams)
    number = parse_part(ctx.options["part"], params) if "part" in ctx.options else None
    parts = cut(_sources(ctx, params), params.parts)
    if number is not None:
        parts = [parts[number - 1]]
    finished = Finished(ctx.cache)
    n_videos = sum(map(len, parts))
    bad = finish(ctx, [source for part in parts for source in part], finished, params)
    if number is None:  # a part cannot know the share of the whole: the merge judges it
        check_share(bad.values(), len(bad), n_videos, params.max_bad_share)
    for row in bad.values():
        ctx.warn(f"skipped {row.path}: {row.reason}")
    said = None if number is None else _said(ctx, number, params)
    frames = assemble(parts, bad, finished, ctx.outputs["frames"], params.shard_mb * MEGABYTE, said)
    ctx.contents["frames"] = content_hash(ctx.outputs["frames"])
    ctx.note("frames", n_frames=frames, n_videos=n_videos, n_bad=len(bad))
    ctx.log(f"{frames} frames of {n_videos - len(bad)} videos, {len(bad)} skipped")


def _sources(ctx: Context, params: ExtractParams) -> list[Source]:
    folder = ctx.inputs["videos"]
    if folder is None:
        raise StageError("the input 'videos' is missing", do="name the folder with --videos")
    sources = find_sources(folder, image_folders=params.source_fps is not None)
    if not sources:
        do = "put video files there; folders of images need 'source_fps'"
        raise StageError("no video file in this folder", where=folder, do=do)
    return sources


def _said(ctx: Context, number: int, params: ExtractParams) -> dict[str, object]:
    part = Part(number=number, of=params.parts, videos=ctx.input_hash("videos"), params=params_hash(params))
    return part.model_dump()


def finish(ctx: Context, sources: list[Source], finished: Finished, params: ExtractParams) -> dict[str, VideoRow]:
    """Extract what no earlier run has finished; returns the bad videos by key, in the sources' order.

    Threads suffice: ffmpeg does the work, hashing and file reads let go of the interpreter lock, and what is left in
    Python is some 30 microseconds a stored frame. Long videos go first, so that no core waits for one at the end.
    """
    todo = sorted((s for s in sources if not finished.has(s)), key=lambda s: (-s.size, s.key))
    bad: dict[str, VideoRow] = {}
    frames, start = 0, time.monotonic()
    with (
        ctx.progress(len(sources), "videos", done=len(sources) - len(todo)) as progress,
        _crew(params) as (pool, decoder),
    ):
        jobs = {pool.submit(finished.make, source, decoder): source for source in todo}
        for job in as_completed(jobs):
            source, row = jobs[job], job.result()
            if row.status == BAD:
                bad[source.key] = row
            else:
                frames += finished.n_frames(source)
            rate = frames / (time.monotonic() - start)
            progress.update(1, **{"frames": frames, "frames/s": rate, "skipped": len(bad)})
    if frames:
        ctx.tracker.metrics({"frames_per_s": frames / (time.monotonic() - start)})
    return {source.key: bad[source.key] for source in sources if source.key in bad}


@contextmanager
def _crew(params: ExtractParams) -> Iterator[tuple[ThreadPoolExecutor, Decoder]]:
    """Worker threads and their decoder; on any error, Ctrl-C included, what runs is ended and what waits dropped."""
    decoder = Decoder(params)
    with ThreadPoolExecutor(params.workers or usable_cores()) as pool:
        try:
            yield pool, decoder
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            decoder.stop()
            raise
