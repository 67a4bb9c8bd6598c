"""An evaluation that cannot be done is a result as well: it is written down, and takes no other one with it.

What the task or its data is to blame for (a broken benchmark, memory that does not suffice, figures that are not
finite) ends as `{"error": reason}` in the metrics: compare shows the reason in the leaderboard, promote has no score
to use, and on a cluster what waits for the other evaluations still runs. A kill, a full disk, a server that is away
and a defect of ours fail the stage as ever: doing it again may go well, or must be looked at.
"""

from __future__ import annotations

import json
import math

from components.common.context import Context
from components.common.encoder import Encoder
from components.common.errors import ExitCode, StageError
from components.common.outputs import remove, write_text
from components.evaluate.task import TaskResult

REASON = "error.txt"
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def failure_of(error: Exception) -> StageError | None:
    """The error in one line, if it is the task's own; None for what the stage must fail of."""
    if isinstance(error, StageError):
        return error if error.code == ExitCode.BAD_INPUT else None
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    told = any(words in text.lower() for words in NO_MEMORY)
    if told or isinstance(error, MemoryError):
        text = text if told else f"out of memory, {text}"
        return StageError(text, do="lower batch_images", code=ExitCode.NO_ROOM)
    return None


def finite(result: TaskResult) -> TaskResult:
    """The result, unless a figure is NaN or infinite, which would win or lose every comparison."""
    wrong = sorted(name for name, value in result.metrics.items() if not math.isfinite(value))
    if wrong:
        raise StageError(f"not finite: {', '.join(wrong)}", do="look at the encoder's features")
    return result


def write_failure(ctx: Context, encoder: Encoder, reason: str) -> None:
    """Both outputs of an evaluation that failed; its resumable work stays for the next try."""
    document = {
        "method": ctx.keys["method"],
        "task": ctx.keys["task"],
        "error": reason,
        "encoder_sha256": encoder.sha256,
        "encoder_origin": encoder.origin,
        "benchmark_hash": ctx.input_hash("benchmark"),
        "seed": ctx.seed,
    }
    write_text(ctx.outputs["metrics"], json.dumps(document, indent=2, sort_keys=True) + "\n")
    for path in ctx.outputs["details"].iterdir():  # half of a result is none
        remove(path)
    write_text(ctx.outputs["details"] / REASON, reason + "\n")
    ctx.keep_cache = True
    ctx.tracker.failed(reason)
    ctx.note("metrics", error=reason)
    ctx.warn(f"failed, {reason}")
