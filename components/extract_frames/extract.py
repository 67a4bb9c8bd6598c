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
from components.extract_frames import chosen
from components.extract_frames.annotations import Tracks, find_tracks, told
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source, find_sources
from components.extract_frames.finished import Finished, assemble, check_share
from components.extract_frames.palette import PaletteMasks, find_masks
from components.extract_frames.parts import Part, cut, params_hash, parse_part
from components.extract_frames.video import Decoder

MEGABYTE = 10**6


def extract(ctx: Context) -> None:
    """Run the stage on ctx.inputs["videos"], write ctx.outputs["frames"]: the whole corpus, or one part of it."""
    params = ctx.params
    assert isinstance(params, ExtractParams)
    number = parse_part(ctx.options["part"], params) if "part" in ctx.options else None
    sources = _sources(ctx, params)
    tracks = _tracks(ctx, params, sources)
    parts = cut(sources, params.parts)
    if number is not None:
        parts = [parts[number - 1]]
    finished = Finished(ctx.cache, tracks)
    n_videos = sum(map(len, parts))
    bad = finish(ctx, [source for part in parts for source in part], finished, params)
    if number is None:  # a part cannot know the share of the whole: the merge judges it
        check_share(bad.values(), len(bad), n_videos, params.max_bad_share)
    for row in bad.values():
        ctx.warn(f"skipped {row.path}: {row.reason}")
    if tracks is not None:
        _tell_of_objects(ctx, finished, [s for part in parts for s in part if s.key not in bad])
    said = None if number is None else _said(ctx, number, params)
    frames = assemble(parts, bad, finished, ctx.outputs["frames"], params.shard_mb * MEGABYTE, said)
    ctx.contents["frames"] = content_hash(ctx.outputs["frames"])
    ctx.note("frames", n_frames=frames, n_videos=n_videos, n_bad=len(bad))
    ctx.log(f"{frames} frames of {n_videos - len(bad)} videos, {len(bad)} skipped")


def _sources(ctx: Context, params: ExtractParams) -> list[Source]:
    folder = ctx.inputs["videos"]
    if folder is None:
        raise StageError("the input 'videos' is missing", do="name the folder with --videos")
    beside = [name for name in (params.tracks, params.masks) if name is not None]
    labels = [params.labels.folder] if params.labels is not None else []
    sources = find_sources(folder, params.source_fps is not None, beside, labels)
    if not sources:
        do = "put video files there; folders of images need 'source_fps'"
        raise StageError("no video file in this folder", where=folder, do=do)
    if params.videos is not None:
        sources, missing = chosen.choose(sources, folder, params.videos)
        if missing:
            ctx.warn(chosen.told(missing))
    return sources


def _tracks(ctx: Context, params: ExtractParams, sources: list[Source]) -> Tracks | PaletteMasks | None:
    folder = ctx.inputs["videos"]
    if folder is not None and params.labels is not None:
        return find_masks(folder, params.labels, sources)
    if params.tracks is None or folder is None:
        return None
    tracks = find_tracks(folder, params.tracks, params.masks, [source.key for source in sources])
    if tracks.strays:
        ctx.warn(told(tracks.strays))
    return tracks


def _tell_of_objects(ctx: Context, finished: Finished, sources: list[Source]) -> None:
    """Warn of what was told and could not be used; an earlier run may have met it, so the files are asked."""
    n_boxes, n_outside, videos = 0, 0, 0
    for source in sources:
        found = finished.objects(source)
        n_boxes, n_outside, videos = n_boxes + len(found.at), n_outside + found.n_outside, videos + bool(len(found.at))
        if found.trouble:
            ctx.warn(f"no objects for {source.name}: {found.trouble}")
        if found.note:
            ctx.warn(f"{source.name}: {found.note}")
    if n_outside:
        ctx.warn(f"{n_outside} boxes were left out: outside the picture, or a second one of their track")
    ctx.log(f"{n_boxes} boxes of objects in {videos} videos")


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
