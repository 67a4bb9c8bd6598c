"""http(s): one file, resumed by range, limited in size, checked by SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.common.errors import ExitCode, StageError
from components.common.hashing import file_hash, json_hash
from components.common.outputs import write_text
from components.common.progress import Progress
from components.download.config import Address, Transfer

CHUNK_BYTES = 1 << 20
GIB = 2**30
LONGEST_WAIT_S = 60.0
FINAL = {400, 401, 403, 404, 405, 406, 410, 451}  # asking again will not help


class BrokenOffError(Exception):
    """The transfer broke off; what came so far is kept, and the next try goes on from there."""


def file_name(url: str) -> str:
    """A safe file name for an address: the last part of its path."""
    name = safe_name(unquote(Path(urlsplit(url).path).name))
    if not name:
        raise StageError("the address names no file", where=url)
    return name


def safe_name(name: str) -> str:
    """A name without separators and other letters that a file system may take amiss."""
    return re.sub(r"[^\w.()+,=@ -]", "_", name).strip(" .")


def fetch(
    url: str, target: Path, parts: Path, transfer: Transfer, sha256: str | None = None, md5: str | None = None
) -> None:
    """Fetch `url` to `target`.

    Args:
        url: an http or https address.
        target: where the whole, checked file goes.
        parts: folder that outlives a killed process, for the bytes that came so far.
        transfer: timeouts, tries and limits.
        sha256, md5: expected digests, in hex.

    Raises:
        StageError: the server refuses, goes on failing, sends too much, or the digest differs.
    """
    part = parts / f"{json_hash(url)}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(transfer.retries + 1):
        if attempt:
            time.sleep(min(transfer.backoff_s * 2 ** (attempt - 1), LONGEST_WAIT_S))
        try:
            _continue(url, part, transfer)
            break
        except BrokenOffError as error:
            trouble = str(error)
    else:
        raise StageError(f"not fetched after {transfer.retries + 1} tries, {trouble}", where=url)
    _check(url, part, sha256, md5)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(part, target)
    part.with_suffix(".json").unlink(missing_ok=True)


def _continue(url: str, part: Path, transfer: Transfer) -> None:
    """Ask for the bytes that are missing, and append them."""
    import requests

    have, etag = _state(part)
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored: ranges count those
    if have:
        headers.update({"Range": f"bytes={have}-", "If-Range": etag})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=transfer.timeout_s) as response:
            if response.status_code == 416:  # a stale or finished part: start again
                part.unlink(missing_ok=True)
                raise BrokenOffError("the server does not have the rest of an earlier try")
            _raise_for(response.status_code, url)
            if response.status_code != 206:
                have = 0  # the file has changed, or the server knows no ranges
            _remember(part, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
            total = have + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            _check_room(url, part, total, have, transfer)
            _append(response, url, part, have, total, transfer)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise StageError("not an address that can be fetched", where=url) from None
    except requests.RequestException as error:
        raise BrokenOffError(_short(error)) from None


def _append(response: object, url: str, part: Path, have: int, total: int | None, transfer: Transfer) -> None:
    limit = int(transfer.max_gib * GIB)
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        for chunk in response.iter_content(CHUNK_BYTES):  # type: ignore[attr-defined]
            have += len(chunk)
            if have > limit:
                raise StageError(f"larger than transfer.max_gib = {transfer.max_gib:g}", where=url)
            file.write(chunk)
    if total is not None and have < total:
        raise BrokenOffError(f"{have} of {total} bytes came")


def _state(part: Path) -> tuple[int, str]:
    """Bytes at hand and the validator they came with; without one a part cannot be trusted to be of the same file."""
    try:
        etag = str(json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))["validator"])
        return (part.stat().st_size, etag) if etag and not etag.startswith("W/") else (0, "")
    except (OSError, ValueError, KeyError):
        return 0, ""


def _remember(part: Path, validator: str) -> None:
    write_text(part.with_suffix(".json"), json.dumps({"validator": validator}))


def _raise_for(status: int, url: str) -> None:
    if status in FINAL:
        raise StageError(f"the server answers {status}", where=url)
    if status >= 400:
        raise BrokenOffError(f"the server answers {status}")


def _check_room(url: str, part: Path, total: int | None, have: int, transfer: Transfer) -> None:
    if total is None:
        return
    if total > transfer.max_gib * GIB:
        raise StageError(f"{total / GIB:.1f} GiB, larger than transfer.max_gib = {transfer.max_gib:g}", where=url)
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        missing = (total - have - free) / GIB
        raise StageError(f"the disk lacks {missing:.1f} GiB for this file", where=url, code=ExitCode.NO_ROOM)


def _check(url: str, part: Path, sha256: str | None, md5: str | None) -> None:
    if sha256 and (got := file_hash(part)) != sha256.lower():
        part.unlink()
        raise StageError(f"the SHA-256 differs: expected {sha256.lower()}, got {got}", where=url, do="check the source")
    if md5 and (got := _md5(part)) != md5.lower():
        part.unlink()
        raise StageError(f"the MD5 differs: expected {md5.lower()}, got {got}", where=url, do="check the source")


def _md5(file: Path) -> str:
    """Against accidents only: what datasets of some age publish."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def size_of(url: str, transfer: Transfer) -> int | None:
    """Bytes of the file at an address, as its server tells before it is fetched; None where it does not."""
    import requests

    try:
        headers = {"Accept-Encoding": "identity"}
        answer = requests.head(url, headers=headers, timeout=transfer.timeout_s, allow_redirects=True)
        return int(answer.headers["Content-Length"]) if answer.ok else None
    except (requests.RequestException, KeyError, ValueError):
        return None


def _short(error: Exception) -> str:
    """What the machine said, where some library has wrapped it up; else what the library says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        reason = getattr(inner.args[0], "reason", None) if inner.args else None
        inner = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def fetch_all(addresses: list[Address], tree: Path, parts: Path, transfer: Transfer, progress: Progress) -> None:
    """Fetch several files into `tree`; those that are there are not fetched again."""
    for address, name in zip(addresses, file_names([file.url for file in addresses]), strict=True):
        if not (tree / name).exists():
            fetch(address.url, tree / name, parts, transfer, address.sha256, address.md5)
        progress.update(1, MiB=(tree / name).stat().st_size >> 20)


def file_names(urls: list[str]) -> list[str]:
    """One file name an address; equal names of different addresses get a short hash of the address in front."""
    names = [file_name(url) for url in urls]
    return [
        name if names.count(name) == 1 else f"{json_hash(url)[:8]}-{name}"
        for name, url in zip(names, urls, strict=True)
    ]
