"""compare: all metrics of all runs in one leaderboard and one page.

python -m components.compare --metrics metrics --details results --models models --report report
"""

from __future__ import annotations

import shutil

from components.common.context import Context
from components.common.stage import Port, Stage, main
from components.compare.config import CompareParams

STAGE = Stage(
    name="compare",
    help="Leaderboard, learning curves, plots and pictures of all runs, in one page that stands alone.",
    inputs={
        "metrics": Port("folder of <run>-<task>.json", type="Metrics", many=True),
        "details": Port("folder of <run>-<task>/ with details.parquet and pictures", type="Artifact", many=True),
        "models": Port("folder of model folders", type="Model", many=True),
        "frames": Port("frame store of the corpus, for its facts", optional=True),
        "index": Port("index of the corpus, for its statistics and contact sheet", optional=True),
    },
    outputs={
        "report": Port("index.html, leaderboard.{json,md,txt}, plots/", type="Artifact"),
        "page": Port("index.html once more, as the one file that Kubeflow shows", "file", "HTML", optional=True),
    },
    params=CompareParams,
)


def run(ctx: Context) -> None:
    """Write the report; log it and the summary to the pipeline's run."""
    from components.compare.report import Report
    from components.compare.tables import as_text

    assert isinstance(ctx.params, CompareParams)
    metrics, details, models = (ctx.inputs[name] for name in ("metrics", "details", "models"))
    assert metrics is not None and details is not None and models is not None
    out = ctx.outputs["report"]
    report = Report(metrics, details, models, ctx.params)
    report.write(out, ctx.inputs["frames"], ctx.inputs["index"])
    if "page" in ctx.outputs:
        shutil.copyfile(out / "index.html", ctx.outputs["page"])
    ctx.tracker.metrics(report.summary())
    ctx.tracker.pipeline_metrics(report.summary())
    for name in ("index.html", "leaderboard.json", "leaderboard.md"):
        ctx.tracker.pipeline_artifact(out / name, "report")
    ctx.note("report", rows=len(report.board.rows), columns=len(report.board.columns), first=report.board.rows[0].run)
    for line in report.board.troubles:
        ctx.warn(line)
    print("\n" + as_text(report.board), flush=True)
    failed = report.failed()
    for tag in (ctx.tracker.tag, ctx.tracker.pipeline_tag):
        tag("failed_evaluations", ", ".join(failed) or "none")
    if failed:  # the last line of the log: this stage succeeds, and so does the pipeline
        total = len(report.cells)
        ctx.warn(f"{len(failed)} of {total} evaluations failed (reasons above, and in the page): {', '.join(failed)}")


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
