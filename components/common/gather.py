"""Several artifacts seen as one folder.

DVC hands a stage the parent folder of what other stages made (`metrics/`, `models/`). Kubeflow hands it the artifacts
one by one, each at a place of its own: here they become a folder of links, so that a stage sees the same in both.
"""

from __future__ import annotations

from pathlib import Path

from components.common import hashing, outputs
from components.common.errors import StageError


def gathered(values: list[str], name: str, cache: Path, named: bool = True) -> Path:
    """The folder itself where one is given, else a folder of links below `cache`, made anew.

    Args:
        values: `PATH`, or `NAME=PATH` for each artifact; NAME is the artifact's name in the folder.
        name: of the input, for messages.
        cache: where the folder of links may be made.
        named: whether the artifacts must have names; else they may be given as mere paths, and are numbered.

    Raises:
        StageError: several folders without names, a name twice or with a `/`, an artifact that does not exist.
    """
    if len(values) == 1 and ("=" not in values[0] or Path(values[0]).exists()):
        return Path(values[0])
    if not named:
        values = [f"{number:06d}={value}" for number, value in enumerate(values)]
    links = [_named(value, name) for value in values]
    if len({link for link, _ in links}) < len(links):
        raise StageError(f"input '{name}' has two artifacts of one name", where=" ".join(values))
    folder = cache / "gathered" / f"{name}-{hashing.json_hash(values)}"
    outputs.remove(folder)
    folder.mkdir(parents=True)
    for link, target in links:
        (folder / link).symlink_to(target.absolute())
    if not named:
        outputs.mark(folder, "gather", name, content=_content_of_list(folder))
    return folder


def _content_of_list(folder: Path) -> str:
    """Hash of the artifacts in any order, by their own markers: parts of a corpus are too large to read once more."""
    return hashing.json_hash(sorted(outputs.content_hash(link.resolve()) for link in folder.iterdir()))


def _named(value: str, name: str) -> tuple[str, Path]:
    link, sign, path = value.partition("=")
    if not sign or not link or "/" in link or link in (".", ".."):
        raise StageError(f"input '{name}' takes one folder, or NAME=PATH for each artifact, got '{value}'")
    if not Path(path).exists():
        raise StageError(f"input '{name}' does not exist", where=path, do="run the stage that makes it first")
    return link, Path(path)
