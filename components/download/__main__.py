"""`python -m components.download`: fetch a dataset, or render the sample world.

`python -m components.download --list` prints the cards of the published datasets, `--list NAME` one of them whole.
"""

from __future__ import annotations

import sys

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


def show(names: list[str]) -> int:
    """Print all cards as a table, or the named ones whole."""
    from components.common.errors import StageError
    from components.download import cards

    try:
        print("\n\n".join(cards.told(name) for name in names) if names else cards.table())
    except StageError as error:
        print(f"download: {error}", file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    raise SystemExit(show(sys.argv[2:]) if sys.argv[1:2] == ["--list"] else main(STAGE, run))
