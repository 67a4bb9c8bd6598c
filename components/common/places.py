"""Where a stage's outputs are built, and how they come to their places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from components.common import outputs
from components.common.errors import StageError

if TYPE_CHECKING:
    from components.common.context import Context
    from components.common.stage import Port, Stage


def check_place(name: str, port: Port, place: Path, inputs: dict[str, Path | None]) -> None:
    """Refuse to write over an input, or over a folder that no stage has made."""
    for other, path in inputs.items():
        if path is not None and (place.absolute() == path.absolute() or place.absolute() in path.absolute().parents):
            raise StageError(f"output '{name}' would replace input '{other}'", where=place)
    if port.kind == "dir":
        if place.is_file():
            raise StageError(f"output '{name}' is a folder, but a file is there", where=place, do="name another place")
        outputs.check_new_output(place)
    elif place.is_dir():
        raise StageError(f"output '{name}' is a file, but a folder is there", where=place, do="name another place")


def fresh(port: Port, place: Path) -> Path:
    """A folder, or the path of a file to be, in which an output is built: empty but for what a port resumes from."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = outputs.stage_path(place)
    if not port.resumes:
        outputs.remove(partial)  # left by a killed run
    if port.kind == "dir":
        partial.mkdir(exist_ok=True)
    return partial


def dropper(port: Port, partial: Path) -> Callable[[type[BaseException] | None, object, object], None]:
    """For an ExitStack: removes what was built, unless the stage was only interrupted and can go on with it."""

    def drop(kind: type[BaseException] | None, error: object, trace: object) -> None:
        if not (port.resumes and kind is not None and issubclass(kind, KeyboardInterrupt)):
            outputs.remove(partial)

    return drop


def finish(stage: Stage, ctx: Context) -> None:
    """Mark the finished outputs and put them in place."""
    for name, partial in ctx.outputs.items():
        if not partial.exists():
            raise RuntimeError(f"stage {stage.name} ended without writing its output '{name}'")
        if stage.outputs[name].kind == "dir":
            outputs.mark(partial, stage.name, name, ctx.contents.get(name))
        outputs.put_in_place(partial, ctx.places[name])
    made = ", ".join(str(place) for place in ctx.places.values())
    ctx.log(f"done: {made}")
