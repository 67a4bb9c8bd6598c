"""List files: addresses of any kind, one a line; dead ones are recorded and do not stop the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.common.errors import ExitCode, StageError
from components.common.progress import Progress
from components.download.config import ListParams
from components.download.sources import http, local, s3

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Line:
    address: str
    sha256: str | None
    number: int


def read_list(path: Path) -> list[Line]:
    """Addresses of a list file: blank lines and `# comments` are skipped, repeated addresses taken once.

    Raises:
        StageError: the file is missing, is no text, names nothing, or has a line that is no address.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StageError("no such list file", where=path) from None
    except UnicodeDecodeError:
        raise StageError("the list file is not text", where=path) from None
    lines: dict[str, Line] = {}
    for number, row in enumerate(text.splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", row).split()
        if not words:
            continue
        if len(words) > 2 or (len(words) == 2 and not SHA256.fullmatch(words[1])):
            raise StageError("expected `address [sha256]`", where=f"{path}, line {number}")
        lines.setdefault(words[0], Line(words[0], words[1].lower() if len(words) == 2 else None, number))
    if not lines:
        raise StageError("the list file names no address", where=path)
    return list(lines.values())


def fetch_all(params: ListParams, tree: Path, parts: Path, progress: Progress) -> list[dict[str, str]]:
    """Fetch every address of the list into `tree`; returns the dead ones with their reasons.

    Raises:
        StageError: more than `max_dead_share` of the addresses failed.
    """
    lines = read_list(Path(params.path))
    names = http.file_names([line.address for line in lines])
    progress.total = len(lines)
    dead: list[dict[str, str]] = []
    for line, name in zip(lines, names, strict=True):
        try:
            if not (tree / name).exists():
                _fetcher(line, params, parts)(tree / name)
        except StageError as error:
            if error.code == ExitCode.NO_ROOM:
                raise  # the disk, not the address
            dead.append({"address": line.address, "reason": error.what})
        progress.update(1, dead=len(dead))
    if len(dead) > params.max_dead_share * len(lines):
        first = f"{dead[0]['address']}: {dead[0]['reason']}"
        raise StageError(
            f"{len(dead)} of {len(lines)} addresses failed, more than max_dead_share = {params.max_dead_share:g};"
            f" the first: {first}",
            where=params.path,
        )
    return dead


def _fetcher(line: Line, params: ListParams, parts: Path) -> Callable[[Path], None]:
    scheme = urlsplit(line.address).scheme
    if scheme in ("http", "https"):
        return lambda target: http.fetch(line.address, target, parts, params.transfer, line.sha256)
    if scheme == "s3":
        return lambda target: _from_s3(line, params, target, parts)
    if scheme in ("", "file"):
        source = Path(params.path).parent / line.address.removeprefix("file://")
        return lambda target: _from_disk(source, target, line.sha256)
    raise StageError(f"addresses of kind '{scheme}' are not known", where=line.address)


def _from_s3(line: Line, params: ListParams, target: Path, parts: Path) -> None:
    if line.address.endswith("/"):
        raise StageError("a prefix in a list; name objects, or use source: s3", where=line.address)
    s3.fetch_one(params, line.address, target, parts)
    _check(target, line)


def _from_disk(source: Path, target: Path, sha256: str | None) -> None:
    if not source.is_file():
        raise StageError("no such file", where=source)
    local.copy_file(source, target)
    _check(target, Line(str(source), sha256, 0))


def _check(target: Path, line: Line) -> None:
    if line.sha256 and http.file_hash(target) != line.sha256:
        target.unlink()
        raise StageError("the SHA-256 differs", where=line.address)
