"""Puts the parts of an index together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.common.clip_index import EXCLUDED, TRAIN, VAL, write_index
from components.common.columns import save_array
from components.common.context import Context
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.common.outputs import write_text
from components.index.config import IndexParams, shared_draws
from components.index.contact_sheet import write_contact_sheet
from components.index.draws import build_draw
from components.index.frame_prints import frame_prints
from components.index.leakage import Leak, check_benchmarks
from components.index.page import render
from components.index.page_pictures import groups
from components.index.split import split_exactly, split_videos
from components.index.statistics import statistics
from components.index.table import FrameTable, read_table

PAGE = "report.html"
INDEX_COLUMNS = ("video", "pts_s", "shard", "offset", "size", "height", "width")


def build_index(params: IndexParams, ctx: Context) -> dict[str, Any]:
    """Write the index folder and the leakage report; returns the counts worth showing beside the artifact."""
    frames, benchmarks, out = ctx.inputs["frames"], ctx.inputs["benchmarks"], ctx.outputs["index"]
    assert frames is not None
    store = FrameStore(frames)
    table = read_table(store)
    ctx.log(f"{len(table)} frames of {len(table.keys) - table.n_bad} videos in {len(table.segment_start)} segments")
    split = _split(table, params)

    # Draws before fingerprints: a wrong gap is told in a second, not after an hour of decoding.
    draws = _draws(table, split, params)
    prints = frame_prints(table, store, params.fingerprint, ctx)
    leaks: dict[str, Leak] = {}
    if benchmarks is None:
        ctx.warn("no benchmarks folder, so leakage into benchmarks was not checked")
    else:
        leaks = check_benchmarks(benchmarks, prints, table, params.fingerprint, ctx)
    leaking = np.unique(np.concatenate([np.zeros(0, np.int64), *(leak.videos for leak in leaks.values())]))
    excluded = _judge(leaks, leaking, table, params, ctx)
    if len(excluded):
        split[excluded] = EXCLUDED
        draws = _draws(table, split, params)

    save_array(out / "fingerprints.npy", prints)
    _write(table, split, draws, out, params, store.fingerprint)
    _write_leakage(ctx.outputs["leakage"], leaks, benchmarks is not None, _names(table, split), params)
    sheet, shared = out / "contact_sheet.jpg", shared_draws(params)
    write_contact_sheet(sheet, table, store, draws, params.contact_sheet, params.seed, shared)
    stats = statistics(table, split, prints, draws, params.fingerprint)
    write_text(out / "stats.json", _json(stats))
    pictures = groups(table, store, draws, params.contact_sheet, params.seed, shared)
    write_text(out / PAGE, render(ctx.keys["corpus"], stats, pictures, _compared(leaks)))
    for shown in (sheet, out / PAGE):
        ctx.tracker.artifact(shown)
    for name, rows in draws.items():
        ctx.log(f"draw '{name}': {len(rows)} of {rows.shape[1]} frames")
    return _summary(stats)


def _split(table: FrameTable, params: IndexParams) -> np.ndarray:
    if not params.val_exact:
        return split_videos(table.identity, params.val_share, params.seed)
    usable = np.bincount(table.columns["video"], minlength=len(table.keys)) > 0
    return split_exactly(table.identity, usable, params.val_share, params.seed)


def _draws(table: FrameTable, split: np.ndarray, params: IndexParams) -> dict[str, np.ndarray]:
    usable = split[table.columns["video"]] == TRAIN
    if not usable.any():
        leaking, held_out = (int((split == side).sum()) for side in (EXCLUDED, VAL))
        what = f"no video is left to train on: {leaking} occur in a benchmark, {held_out} are held out"
        raise StageError(what, where="index", do="add videos, or see on_leak and val_share")
    return {name: build_draw(name, draw, table, usable, params) for name, draw in params.draws.items()}


def _judge(
    leaks: dict[str, Leak], leaking: np.ndarray, table: FrameTable, params: IndexParams, ctx: Context
) -> np.ndarray:
    """Numbers of the videos to leave out; raises StageError where leakage must stop the pipeline."""
    if not len(leaking):
        return leaking
    found = [f"{leak.report['matching_images']} images of '{name}'" for name, leak in leaks.items() if len(leak.videos)]
    first = table.keys[int(leaking[0])]
    what = f"{len(leaking)} of {len(table.keys)} training videos also occur in benchmarks: {', '.join(found)}"
    if params.on_leak == "fail":
        do = f"take them out of the corpus ('{first}' is the first), or set index.on_leak to exclude"
        raise StageError(what, do=do)
    kept = params.on_leak == "warn"
    ctx.warn(
        f"{what}; '{first}' is the first; they are {'kept, as on_leak says' if kept else 'left out of every draw'}"
    )
    return leaking[:0] if kept else leaking


def _write(
    table: FrameTable, split: np.ndarray, draws: dict[str, np.ndarray], out: Path, params: IndexParams, store: str
) -> None:
    columns = {name: table.columns[name] for name in INDEX_COLUMNS}
    columns |= {"segment": table.segment, "split": split[table.columns["video"]]}
    extra = {
        "videos": len(table.keys),
        "segments": len(table.segment_start),
        "excluded_videos": _names(table, split),
        "frame_store": store,
        # how many threads decoded changes nothing in the result
        "params": params.model_dump(mode="json", exclude={"fingerprint": {"workers"}}),
    }
    made_by = {name: draw.model_dump(mode="json", exclude_none=True) for name, draw in params.draws.items()}
    objects = None if table.objects is None else (table.objects.columns, table.objects.categories)
    write_index(out, columns, draws, made_by, extra, objects)


def _names(table: FrameTable, split: np.ndarray) -> list[str]:
    return [table.keys[video] for video in np.flatnonzero(split == EXCLUDED).tolist()]


def _write_leakage(file: Path, leaks: dict[str, Leak], checked: bool, excluded: list[str], params: IndexParams) -> None:
    report = {
        "checked": checked,
        "on_leak": params.on_leak,
        "max_distance_bits": params.fingerprint.max_distance_bits,
        "every_s": params.fingerprint.every_s,
        "excluded_videos": excluded,
        "benchmarks": {name: leak.report for name, leak in leaks.items()},
    }
    write_text(file, _json(report))


def _compared(leaks: dict[str, Leak]) -> list[str]:
    """A line for each benchmark, for people."""
    return [
        f"{name}: {leak.report['images_checked']} images compared, {leak.report['matching_images']} also occur in"
        f" {len(leak.videos)} of the videos."
        for name, leak in sorted(leaks.items())
    ]


def _summary(stats: dict[str, Any]) -> dict[str, Any]:
    draws = {f"draw_{name}": draw["rows"] for name, draw in stats["draws"].items()}
    videos = {f"videos_{name}": stats["videos"][name] for name in ("all", "train", "val", "excluded")}
    return {"frames": stats["frames"]["all"], "hours": stats["hours"], **videos, **draws}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
