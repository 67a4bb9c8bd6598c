"""evaluate: judge one encoder by one task."""

from __future__ import annotations

from components.common.config import Section, StageParams
from components.common.context import Context
from components.common.stage import Port, Stage, main


def _params(key: str | None, section: Section) -> type[StageParams]:
    from components.evaluate.task import get_task

    return get_task(key or "").Args


STAGE = Stage(
    name="evaluate",
    help="Judge a frozen encoder by one task: metrics, predictions, pictures.",
    keys=("method", "task"),
    inputs={
        "model": Port(
            "model folder, models:/NAME@ALIAS, models:/NAME/VERSION, timm:NAME, timm:NAME=FILE, or a .safetensors file",
            type="Model",
            name_ok=True,
        ),
        "benchmark": Port("benchmark in its own published layout"),
    },
    outputs={
        "metrics": Port("metrics (JSON)", kind="file", type="Metrics"),
        "details": Port("tables, predictions and pictures", type="Artifact"),
    },
    params=_params,
)


def run(ctx: Context) -> None:
    """Evaluate and write both outputs."""
    from components.evaluate.runner import evaluate

    evaluate(ctx)


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
