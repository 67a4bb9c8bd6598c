"""Stage extract_frames: video files -> frame store. `python -m components.extract_frames --help`"""

from __future__ import annotations

from components.common.context import Context
from components.common.stage import Port, Stage, main
from components.extract_frames.config import ExtractParams

STAGE = Stage(
    name="extract_frames",
    help="Take frames from the videos of a corpus, at a stated rate and size, into a frame store.",
    keys=("corpus",),
    inputs={"videos": Port("folder of video files, searched to any depth")},
    outputs={"frames": Port("frame store: tar shards and two tables")},
    params=ExtractParams,
)


def run(ctx: Context) -> None:
    """The stage's work; imports late, so that --help answers at once."""
    from components.extract_frames.extract import extract

    extract(ctx)


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
