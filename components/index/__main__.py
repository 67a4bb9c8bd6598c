"""Stage `index`: frames -> which frames, pairs and clips may be drawn; splits, statistics, leakage."""

from __future__ import annotations

from typing import cast

from components.common.context import Context
from components.common.stage import Port, Stage, main
from components.index.config import IndexParams

STAGE = Stage(
    name="index",
    help="Decide which frames, pairs and clips may be drawn; split by video; check for leakage into benchmarks.",
    keys=("corpus",),
    inputs={
        "frames": Port("frame store of the corpus"),
        "benchmarks": Port("folder with one sub-folder a benchmark, to check for leakage", optional=True, many=True),
    },
    outputs={
        "index": Port("clip index"),
        "leakage": Port("which videos also occur in a benchmark", kind="file", type="Artifact"),
    },
    params=IndexParams,
)


def run(ctx: Context) -> None:
    """Build the index: split, leakage, draws, statistics, contact sheet."""
    from components.index.build import build_index

    ctx.note("index", **build_index(cast(IndexParams, ctx.params), ctx))


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
