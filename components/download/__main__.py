"""`python -m components.download`: fetch a dataset, or render the sample world."""

from __future__ import annotations

from components.common.context import Context
from components.common.stage import Port, Stage, main
from components.download.config import params_model

STAGE = Stage(
    name="download",
    help="Fetch a dataset (http, s3, local, list file) or render the sample world into one folder.",
    params=params_model,
    keys=("dataset",),
    outputs={"data": Port("the dataset's folder")},
)


def run(ctx: Context) -> None:
    from components.download import stage

    stage.run(ctx)


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
