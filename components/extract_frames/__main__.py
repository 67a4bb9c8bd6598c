"""Stage extract_frames: video files -> frame store. `python -m components.extract_frames --help`"""

from __future__ import annotations

from components.common.context import Context
from components.common.errors import StageError
from components.common.stage import Port, Stage, main
from components.extract_frames.config import ExtractParams

STAGE = Stage(
    name="extract_frames",
    help="Take frames from the videos of a corpus, at a stated rate and size, into a frame store.",
    keys=("corpus",),
    inputs={
        "videos": Port("folder of video files, searched to any depth; not with --merge", optional=True),
        "merge": Port("a frame store made with --part; once for each part", optional=True, many=True, named=False),
    },
    outputs={"frames": Port("frame store: tar shards and two tables", resumes=True)},
    options={"part": "extract this part only, 1/8 to 8/8 where the parameter 'parts' is 8"},
    params=ExtractParams,
)


def run(ctx: Context) -> None:
    """The stage's work; imports late, so that --help answers at once."""
    from components.extract_frames.extract import extract
    from components.extract_frames.merge import merge

    if ctx.inputs["merge"] is None:
        extract(ctx)
    elif ctx.inputs["videos"] is None and not ctx.options:
        merge(ctx)
    else:
        raise StageError("--merge takes finished parts, and neither --videos nor --part beside them")


if __name__ == "__main__":
    raise SystemExit(main(STAGE, run))
