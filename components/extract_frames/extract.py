"""The stage: find the videos, extract each on one core, put their frames together."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial

from components.common.context import Context
from components.common.cores import usable_cores
from components.common.errors import StageError
from components.common.frame_store_writer import BAD, VideoRow, content_hash
from components.extract_frames import chosen
from components.extract_frames.annotations import Tracks, find_tracks
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source, find_sources
from components.extract_frames.finished import Finished, assemble, check_lost, check_share
from components.extract_frames.long_video import Result, start
from components.extract_frames.mismatch import mismatches, without_masks
from components.extract_frames.palette import PaletteMasks, find_masks
from components.extract_frames.parts import Part, cut, params_hash, parse_part
from components.extract_frames.video import Decoder

MEGABYTE = 10**6
AHEAD = 2  # jobs with the pool for each worker: the next one is there when one ends
Job = Callable[[], Result]


def extract(ctx: Context) -> None:
    """Run the stage on ctx.inputs["videos"], write ctx.outputs["frames"]: the whole corpus, or one part of it."""
    params = ctx.params
    assert isinstance(params, ExtractParams)
    number = parse_part(ctx.options["part"], params) if "part" in ctx.options else None
    there = _sources(ctx, params)
    sources = _chosen(ctx, params, there)
    tracks = _tracks(ctx, params, sources, there)
    parts = cut(sources, params.parts)
    if number is not None:
        parts = [parts[number - 1]]
    with closing(Finished(ctx.cache, tracks)) as finished:
        _extract(ctx, params, parts, finished, number)


def _extract(
    ctx: Context, params: ExtractParams, parts: list[list[Source]], finished: Finished, number: int | None
) -> None:
    n_videos = sum(map(len, parts))
    bad = finish(ctx, [source for part in parts for source in part], finished, params)
    if number is None:  # a part cannot know the share of the whole: the merge judges it
        check_share(bad.values(), len(bad), n_videos, params.max_bad_share)
    for row in bad.values():
        ctx.warn(f"skipped {row.path}: {row.reason}")
    if finished.tracks is not None:
        lost = _tell_of_objects(ctx, finished, [s for part in parts for s in part if s.key not in bad])
        if number is None:
            check_lost(lost, n_videos, params.max_bad_share)
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
    return sources


def _chosen(ctx: Context, params: ExtractParams, there: list[Source]) -> list[Source]:
    folder = ctx.inputs["videos"]
    if params.videos is None or folder is None:
        return there
    sources, missing = chosen.choose(there, folder, params.videos)
    if missing:
        ctx.warn(chosen.told(missing))
    return sources


def _tracks(
    ctx: Context, params: ExtractParams, sources: list[Source], there: list[Source]
) -> Tracks | PaletteMasks | None:
    folder = ctx.inputs["videos"]
    if folder is not None and params.labels is not None:
        masks = find_masks(folder, params.labels, sources)
        for line in without_masks(masks, sources):
            ctx.warn(line)
        return masks
    if params.tracks is None or folder is None:
        return None
    keys = [source.key for source in sources]
    tracks = find_tracks(folder, params.tracks, params.masks, keys, {source.key for source in there}.difference(keys))
    for line in mismatches(tracks, sources):
        ctx.warn(line)
    return tracks


def _tell_of_objects(ctx: Context, finished: Finished, sources: list[Source]) -> list[str]:
    """Warn of what was told and could not be used; an earlier run may have met it, so the files are asked.

    Returns the videos whose annotation could not be used, each with the reason.
    """
    sums: Counter[str] = Counter()
    lost: list[str] = []
    for source in sources:
        told = finished.told(source)
        sums.update({name: told[name] for name in ("n", "n_outside", "n_bare")}, videos=bool(told["n"]))
        sums["n_partly"] += bool(told["n_bare"])
        if told["note"]:
            ctx.warn(f"{source.name}: {told['note']}")
        if told["trouble"]:
            ctx.warn(f"no objects for {source.name}: {told['trouble']}")
            lost.append(f"{source.name} ({told['trouble']})")
    if sums["n_outside"]:
        ctx.warn(f"{sums['n_outside']} boxes were left out: outside the picture, or a second one of their track")
    if sums["n_bare"]:
        ctx.warn(f"{sums['n_bare']} frames of {sums['n_partly']} videos have no mask, others of them have one")
    ctx.log(f"{sums['n']} boxes of objects in {sums['videos']} videos")
    return lost


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
    frames, pieces, begun = 0, 0, time.monotonic()
    with (
        ctx.progress(len(sources), "videos", done=len(sources) - len(todo)) as progress,
        _crew(params) as (pool, decoder, workers),
    ):
        for row in results(pool, (partial(start, source, decoder, finished) for source in todo), workers):
            if row is None:
                pieces += 1
            elif row.status == BAD:
                bad[row.key] = row
            else:
                frames += finished.n_frames(row.key)
            rate = frames / (time.monotonic() - begun)
            progress.update(int(row is not None), **_shown(frames, rate, pieces, len(bad)))
    if frames:
        ctx.tracker.metrics({"frames_per_s": frames / (time.monotonic() - begun)})
    return {source.key: bad[source.key] for source in sources if source.key in bad}


def _shown(frames: int, rate: float, pieces: int, skipped: int) -> dict[str, object]:
    of_long_videos = {"pieces": pieces} if pieces else {}
    return {"frames": frames, "frames/s": rate, **of_long_videos, "skipped": skipped}


def results(pool: Executor, first: Iterator[Job], workers: int) -> Iterator[VideoRow | None]:
    """The rows of all videos as they are ready, and None for each job that led to further ones.

    What a job leads to goes before the next video. Only a few jobs are with the pool at a time: a future for each of a
    million videos would take a gigabyte.
    """
    further: deque[Job] = deque()
    running: set[Future[Result]] = set()
    while True:
        while len(running) < AHEAD * workers and (job := further.popleft() if further else next(first, None)):
            running.add(pool.submit(job))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            if isinstance(result, list):
                further.extend(result)
            yield None if isinstance(result, list) else result


@contextmanager
def _crew(params: ExtractParams) -> Iterator[tuple[ThreadPoolExecutor, Decoder, int]]:
    """Worker threads and their decoder; on any error, Ctrl-C included, what runs is ended and what waits dropped."""
    decoder, workers = Decoder(params), params.workers or usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool, decoder, workers
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            decoder.stop()
            raise
