"""List files: addresses of any kind, one a line; dead ones are recorded and do not stop the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from components.common.errors import ExitCode, StageError
from components.common.hashing import json_hash
from components.common.progress import Progress
from components.download.config import ManyParams
from components.download.sources import http, local, pages, s3

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Line:
    address: str
    sha256: str | None
    number: int
    name: str | None = None


def read_list(path: Path) -> list[Line]:
    """Addresses of a list file: blank lines and `# comments` are skipped, repeated addresses taken once.

    Raises:
        StageError: the file is missing, is no text, names nothing, or has a line that is no address.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StageError("no such list file", where=path, do="check `path` in params.yaml") from None
    except UnicodeDecodeError:
        raise StageError("the list file is not text", where=path, do="one address a line, UTF-8") from None
    lines: dict[str, Line] = {}
    for number, row in enumerate(text.splitlines(), 1):
        line = _parsed(re.sub(r"(^|\s)#.*", "", row).strip(), number, f"{path}, line {number}")
        if line is not None:
            lines.setdefault(line.address, line)
    if not lines:
        raise StageError("the list file names no address", where=path, do="one address a line")
    return list(lines.values())


def _parsed(row: str, number: int, where: str) -> Line | None:
    """`address`, `address sha256` or `address, name`; None for a row of nothing."""
    address, comma, name = (part.strip() for part in row.partition(", "))
    words = address.split()
    if not words:
        return None
    if comma and (len(words) != 1 or not name):
        raise StageError("expected `address, name`", where=where)
    if len(words) > 2 or (len(words) == 2 and not SHA256.fullmatch(words[1])):
        raise StageError("expected `address [sha256]`", where=where)
    return Line(words[0].rstrip(","), words[1].lower() if len(words) == 2 else None, number, name or None)


def chosen(lines: list[Line], only: list[str], path: Path) -> list[Line]:
    """The lines whose names `only` gives, in any case; all of them where it gives none.

    Raises:
        StageError: a name is not in the list.
    """
    if not only:
        return lines
    wanted = {name.lower() for name in only}
    found = [line for line in lines if (line.name or "").lower() in wanted]
    if missing := wanted - {(line.name or "").lower() for line in found}:
        there = ", ".join(sorted(line.name for line in lines if line.name)) or "no names"
        raise StageError(f"the list does not name '{min(missing)}'", where=path, do=f"it has: {there}")
    return found


def names_of(lines: list[Line], params: ManyParams) -> list[str]:
    """A file name for each line: that of the list or of the address; a page's without the extension it will get."""
    plain = [_name_of(line, params) for line in lines]
    return [
        name if plain.count(name) == 1 else f"{json_hash(line.address)[:8]}-{name}"
        for name, line in zip(plain, lines, strict=True)
    ]


def _name_of(line: Line, params: ManyParams) -> str:
    if pages.is_page(line.address, params.pages):
        video = parse_qs(urlsplit(line.address).query).get("v", [""])[0]
        return http.safe_name(line.name or video) or http.file_name(line.address)
    name = http.file_name(line.address)
    return name if line.name is None else f"{http.safe_name(line.name)}{Path(name).suffix}"


def fetch_all(params: ManyParams, path: Path, tree: Path, parts: Path, progress: Progress) -> list[dict[str, str]]:
    """Fetch every address of the list at `path` into `tree`; returns the dead ones with their reasons.

    Raises:
        StageError: more than `max_dead_share` of the addresses failed.
    """
    lines = chosen(read_list(path), params.only, path)
    progress.total = len(lines)
    dead: list[dict[str, str]] = []
    for line, name in zip(lines, names_of(lines, params), strict=True):
        try:
            if not _there(tree, name, pages.is_page(line.address, params.pages)):
                _fetcher(line, params, path.parent, parts)(tree / name)
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
            where=path,
            do="mend the list, or raise max_dead_share; what was fetched is kept for the next run",
        )
    return dead


def _there(tree: Path, name: str, page: bool) -> bool:
    """Whether an earlier, killed call has fetched it; the stream of a page comes with an extension of its own."""
    if not page:
        return (tree / name).exists()
    return tree.is_dir() and any(file.stem == name for file in tree.iterdir())


def _fetcher(line: Line, params: ManyParams, beside: Path, parts: Path) -> Callable[[Path], object]:
    scheme = urlsplit(line.address).scheme
    if pages.is_page(line.address, params.pages):
        work = parts / json_hash(line.address)
        return lambda target: pages.fetch(
            line.address, target.with_name(f"{target.name}.video"), work, params.pages, params.transfer
        )
    if scheme in ("http", "https"):
        return lambda target: http.fetch(line.address, target, parts, params.transfer, line.sha256)
    if scheme == "s3":
        return lambda target: _from_s3(line, params, target, parts)
    if scheme in ("", "file"):
        source = beside / line.address.removeprefix("file://")
        return lambda target: _from_disk(source, target, line.sha256)
    raise StageError(f"addresses of kind '{scheme}' are not known", where=line.address)


def _from_s3(line: Line, params: ManyParams, target: Path, parts: Path) -> None:
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
