"""Puts the parts of an index together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from components.common.clip_index import EXCLUDED, TRAIN, save_array, write_index
from components.common.context import Context
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.common.outputs import write_text
from components.index.config import IndexParams
from components.index.contact_sheet import write_contact_sheet
from components.index.draws import build_draw
from components.index.frame_prints import frame_prints
from components.index.leakage import Leak, check_benchmarks
from components.index.split import split_videos
from components.index.statistics import statistics
from components.index.table import FrameTable, read_table

INDEX_COLUMNS = ("video", "pts_s", "shard", "offset", "size", "height", "width")


def build_index(params: IndexParams, ctx: Context) -> dict[str, Any]:
    """Write the index folder and the leakage report; returns the counts worth showing beside the artifact."""
    frames, benchmarks, out = ctx.inputs["frames"], ctx.inputs["benchmarks"], ctx.outputs["index"]
    assert frames is not None
    store = FrameStore(frames)
    table = read_table(store)
    ctx.log(f"{len(table)} frames of {len(table.keys) - table.n_bad} videos in {len(table.segment_start)} segments")
    split = split_videos(table.identity, params.val_share, params.seed)

    # Draws before fingerprints: a wrong gap is told in a second, not after an hour of decoding.
    draws = _draws(table, split, params)
    prints = frame_prints(table, store, params.fingerprint, ctx)
    leaks = check_benchmarks(benchmarks, prints, table, params.fingerprint, ctx) if benchmarks is not None else {}
    leaking = np.unique(np.concatenate([np.zeros(0, np.int64), *(leak.videos for leak in leaks.values())]))
    excluded = _judge(leaks, leaking, table, params, ctx)
    if len(excluded):
        split[excluded] = EXCLUDED
        draws = _draws(table, split, params)

    _write(table, split, draws, prints, [table.keys[video] for video in excluded.tolist()], store, params, ctx)
    _write_leakage(leaks, [table.keys[video] for video in excluded.tolist()], params, ctx)
    write_contact_sheet(out / "contact_sheet.jpg", table, store, draws, params.contact_sheet, params.seed)
    stats = statistics(table, split, prints, draws, params.fingerprint)
    write_text(out / "stats.json", _json(stats))
    ctx.tracker.artifact(out / "contact_sheet.jpg")
    for name, rows in draws.items():
        ctx.log(f"draw '{name}': {len(rows)} of {rows.shape[1]} frames")
    return _summary(stats)


def _draws(table: FrameTable, split: np.ndarray, params: IndexParams) -> dict[str, np.ndarray]:
    usable = split[table.columns["video"]] == TRAIN
    if not usable.any():
        where = f"{int((split == EXCLUDED).sum())} occur in a benchmark"
        raise StageError(f"no video is left to train on; {where}", where="index", do="see the leakage report's params")
    return {name: build_draw(name, draw, table, usable, params) for name, draw in params.draws.items()}


def _judge(
    leaks: dict[str, Leak], leaking: np.ndarray, table: FrameTable, params: IndexParams, ctx: Context
) -> np.ndarray:
    """Numbers of the videos to leave out; raises StageError where leakage must stop the pipeline."""
    if not len(leaking):
        return leaking
    concerned = {name: leak.report for name, leak in leaks.items() if len(leak.videos)}
    first = next(report["examples"][0] for report in concerned.values() if report["examples"]) if concerned else {}
    found = ", ".join(f"{report['matching_images']} images of '{name}'" for name, report in concerned.items())
    what = f"{len(leaking)} of {len(table.keys)} training videos also occur in benchmarks ({found}; {first})"
    if params.on_leak == "fail":
        raise StageError(what, do="take them out of the corpus, or set index.on_leak to exclude")
    ctx.warn(what + ("; they are left out of every draw" if params.on_leak == "exclude" else "; kept, as on_leak says"))
    return leaking if params.on_leak == "exclude" else leaking[:0]


def _write(
    table: FrameTable, split: np.ndarray, draws: dict[str, np.ndarray], prints: np.ndarray, excluded: list[str],
    store: FrameStore, params: IndexParams, ctx: Context,
) -> None:  # fmt: skip
    columns = {name: table.columns[name] for name in INDEX_COLUMNS}
    columns |= {"segment": table.segment, "split": split[table.columns["video"]]}
    made_by = {name: draw.model_dump(mode="json") for name, draw in params.draws.items()}
    extra = {
        "videos": len(table.keys),
        "segments": len(table.segment_start),
        "excluded_videos": excluded,
        "frame_store": store.fingerprint,
        "params": params.model_dump(mode="json", exclude={"fingerprint": {"workers"}}),
    }
    save_array(ctx.outputs["index"] / "fingerprints.npy", prints)
    write_index(ctx.outputs["index"], columns, draws, made_by, extra)


def _write_leakage(leaks: dict[str, Leak], excluded: list[str], params: IndexParams, ctx: Context) -> None:
    report = {
        "on_leak": params.on_leak,
        "max_distance_bits": params.fingerprint.max_distance_bits,
        "every_s": params.fingerprint.every_s,
        "excluded_videos": excluded,
        "benchmarks": {name: leak.report for name, leak in leaks.items()},
    }
    write_text(ctx.outputs["leakage"], _json(report))


def _summary(stats: dict[str, Any]) -> dict[str, Any]:
    draws = {f"draw_{name}": draw["rows"] for name, draw in stats["draws"].items()}
    videos = {f"videos_{name}": stats["videos"][name] for name in ("all", "train", "val", "excluded")}
    return {"frames": stats["frames"]["all"], "hours": stats["hours"], **videos, **draws}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
