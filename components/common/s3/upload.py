"""From a folder to a prefix, so that half an upload is never taken for the whole.

A note is written first and removed last; the stage's marker goes before everything else when the content changes, and
comes back after everything else. What a killed upload has sent is not sent again: ETags of what lies there are
compared with those that our parts would get.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from components.common.errors import StageError
from components.common.outputs import MARKER
from components.common.s3.address import split
from components.common.s3.artifact import UPLOADING, listing_below, marked_content
from components.common.s3.store import Object, Store, md5


def check_new_place(store: Store, address: str) -> None:
    """Refuse to write over what no stage has made; StageError too where the store cannot be reached."""
    found = listing_below(store, address)
    if found and MARKER not in found and UPLOADING not in found:
        raise StageError("the address holds something else", where=address, do="name an empty or new prefix")


def upload_folder(store: Store, folder: Path, address: str) -> None:
    """Make what lies below `address` equal to a finished output folder (one with a marker).

    Raises:
        StageError: something else lies there, or the store refuses or stays away.
    """
    check_new_place(store, address)
    found = listing_below(store, address)
    content = json.loads((folder / MARKER).read_text(encoding="utf-8"))["content"]
    if UPLOADING not in found and marked_content(store, found) == content:
        return
    store.put(f"{address}/{UPLOADING}", b"{}")
    store.delete(f"{address}/{MARKER}")
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    for name in sorted(found.keys() - files.keys() - {UPLOADING}):
        store.delete(f"{address}/{name}")  # of an older output of the stage
    new = {name: file for name, file in files.items() if name != MARKER and not _is_there(store, file, found.get(name))}
    small = {name for name, file in new.items() if file.stat().st_size <= store.params.part_bytes}
    store.side_by_side(partial(upload_file, store, new[name], f"{address}/{name}") for name in sorted(small))
    for name in sorted(new.keys() - small):
        upload_file(store, new[name], f"{address}/{name}")
    upload_file(store, folder / MARKER, f"{address}/{MARKER}")
    store.delete(f"{address}/{UPLOADING}")


def upload_file(store: Store, file: Path, address: str) -> None:
    """Write one object, whole or not at all; a large one in parts, side by side."""
    if file.stat().st_size <= store.params.part_bytes:
        store.put(address, file.read_bytes())
        return
    bucket, key = split(address)
    place = {"Bucket": bucket, "Key": key}
    _abort_older(store, address, place)
    upload = {**place, "UploadId": store.call(address, "create_multipart_upload", **place)["UploadId"]}
    starts = range(0, file.stat().st_size, store.params.part_bytes)
    try:
        parts = store.side_by_side(
            partial(_part, store, file, address, upload, n, at) for n, at in enumerate(starts, 1)
        )
        store.call(address, "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
    except BaseException:
        with contextlib.suppress(StageError):
            store.call(address, "abort_multipart_upload", **upload)  # else its parts are kept, and paid for
        raise


def _part(store: Store, file: Path, address: str, upload: dict[str, str], number: int, start: int) -> dict[str, Any]:
    with file.open("rb") as source:
        source.seek(start)
        data = source.read(store.params.part_bytes)
    sent = store.call(address, "upload_part", **upload, PartNumber=number, Body=data, ContentMD5=md5(data))
    return {"PartNumber": number, "ETag": sent["ETag"]}


def _abort_older(store: Store, address: str, place: dict[str, str]) -> None:
    """Drop the parts that a killed upload of the same object left in the store."""
    found = store.call(address, "list_multipart_uploads", Bucket=place["Bucket"], Prefix=place["Key"])
    for row in found.get("Uploads", []):
        if row["Key"] == place["Key"]:
            store.call(address, "abort_multipart_upload", **place, UploadId=row["UploadId"])


def _is_there(store: Store, file: Path, obj: Object | None) -> bool:
    """Whether an object is this file: by the ETag that stores give to objects sent as ours are. A store that gives
    others (one that encrypts with keys of its own) is sent everything again, which is slow and right."""
    return (
        obj is not None
        and obj.size == file.stat().st_size
        and obj.etag.strip('"') == expected_etag(file, store.params.part_bytes)
    )


def expected_etag(file: Path, part_bytes: int) -> str:
    """MD5 of an object sent in one piece; MD5 of the parts' MD5s, and their number, of one sent in parts."""
    digests = [hashlib.md5(data, usedforsecurity=False) for data in _pieces(file, part_bytes)]
    if len(digests) == 1:
        return digests[0].hexdigest()
    joined = b"".join(digest.digest() for digest in digests)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(digests)}"


def _pieces(file: Path, part_bytes: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        yield source.read(part_bytes)
        while data := source.read(part_bytes):
            yield data
