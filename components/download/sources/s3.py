"""s3://: objects and prefixes of any S3-speaking server, in parts, resumable part by part.

boto3's own transfer manager starts a broken object again from zero; parts fetched by range, each pinned to the
object's ETag, go on after a kill with what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from components.common.errors import ExitCode, StageError
from components.common.hashing import json_hash
from components.common.progress import Progress
from components.download.config import Transfer

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Store:
    """How to reach a store; credentials come from the environment, as boto3 finds them."""

    endpoint_url: str | None
    region: str | None
    part_mib: int
    workers: int
    transfer: Transfer

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        retries = {"max_attempts": self.transfer.retries + 1, "mode": "standard"}
        config = Config(
            retries=retries,
            connect_timeout=self.transfer.timeout_s,
            read_timeout=self.transfer.timeout_s,
            max_pool_connections=self.workers,
        )
        return boto3.client("s3", endpoint_url=self.endpoint_url, region_name=self.region, config=config)


@dataclass(frozen=True)
class Object:
    bucket: str
    key: str
    size: int
    etag: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def split_url(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    return parts.netloc, parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")


def listing(client: Any, url: str) -> list[tuple[Object, Path]]:
    """(object, path below the dataset) of one object, or of everything below a prefix.

    Raises:
        StageError: no such bucket or object, no access, nothing below the prefix, a key that leaves the folder.
    """
    bucket, key = split_url(url)
    with _Clear(url):
        if key and not key.endswith("/"):
            head = client.head_object(Bucket=bucket, Key=key)
            return [(Object(bucket, key, head["ContentLength"], head["ETag"]), Path(PurePosixPath(key).name))]
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        rows = [row for page in pages for row in page.get("Contents", []) if not row["Key"].endswith("/")]
    if not rows:
        raise StageError("nothing below this prefix", where=url)
    return [(Object(bucket, r["Key"], r["Size"], r["ETag"]), _below(r["Key"], key, url)) for r in rows]


def _below(key: str, prefix: str, url: str) -> Path:
    below = PurePosixPath(key.removeprefix(prefix))
    if below.is_absolute() or ".." in below.parts:
        raise StageError(f"refused the key '{key}', its path leaves the folder", where=url)
    return Path(below)


def fetch(client: Any, obj: Object, target: Path, parts: Path, store: Store) -> None:
    """Fetch one object to `target`, part by part; what an earlier call has fetched is not fetched again."""
    if obj.size > store.transfer.max_gib * GIB:
        raise StageError(f"larger than transfer.max_gib = {store.transfer.max_gib:g}", where=obj.url)
    part = parts / f"{json_hash([obj.url, obj.etag, store.part_mib])}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    _check_room(obj, part)
    done_file = part.with_suffix(".jsonl")
    done = (
        {json.loads(line) for line in done_file.read_text().splitlines() if line.isdigit()} if part.exists() else set()
    )
    starts = [start for start in range(0, obj.size, store.part_mib * MIB) if start not in done]
    with part.open("r+b" if part.exists() else "w+b") as file, done_file.open("a" if done else "w") as log:
        file.truncate(obj.size)
        with ThreadPoolExecutor(store.workers) as pool:
            jobs = {pool.submit(_part, client, obj, start, store, file.fileno()): start for start in starts}
            for job in as_completed(jobs):
                with _Clear(obj.url):
                    job.result()
                os.fsync(file.fileno())  # a part counts as done only when its bytes are safe
                log.write(f"{jobs[job]}\n")
                log.flush()
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(part, target)
    done_file.unlink()


def _part(client: Any, obj: Object, start: int, store: Store, fd: int) -> None:
    """One part, tried again when its body ends early; IfMatch refuses a part of a changed object."""
    from botocore.exceptions import HTTPClientError, ResponseStreamingError

    end = min(start + store.part_mib * MIB, obj.size)
    broken: Exception | None = None
    for _ in range(store.transfer.retries + 1):
        got = client.get_object(Bucket=obj.bucket, Key=obj.key, Range=f"bytes={start}-{end - 1}", IfMatch=obj.etag)
        try:
            body = got["Body"].read()
        except (HTTPClientError, ResponseStreamingError) as error:
            broken = error
            continue
        if len(body) == end - start:
            os.pwrite(fd, body, start)
            return
        broken = EOFError(f"{len(body)} of {end - start} bytes came")
    raise StageError(f"a part does not come whole, {broken}", where=obj.url)


def _check_room(obj: Object, part: Path) -> None:
    have = part.stat().st_blocks * 512 if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if obj.size - have > free:
        raise StageError(
            f"the disk lacks {(obj.size - have - free) / GIB:.1f} GiB for this object",
            where=obj.url,
            code=ExitCode.NO_ROOM,
        )


class _Clear:
    """Turns boto3's exceptions into one clear line."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "?")
            what = {
                "404": "no such object",
                "NoSuchKey": "no such object",
                "NoSuchBucket": "no such bucket",
                "403": "no access",
                "AccessDenied": "no access",
                "PreconditionFailed": "the object changes while it is fetched",
                "412": "the object changes while it is fetched",
            }.get(code, f"the store answers {code}")
            raise StageError(what, where=self.url) from None
        if isinstance(error, BotoCoreError):
            raise StageError(f"the store cannot be used, {error}", where=self.url) from None


def fetch_all(url: str, tree: Path, parts: Path, store: Store, progress: Progress | None = None) -> None:
    """Fetch an object or a prefix into `tree`."""
    client = store.client()
    found = listing(client, url)
    if progress is not None:
        progress.total = len(found)
    for obj, below in found:
        place = tree / below
        if not place.exists() or place.stat().st_size != obj.size:
            fetch(client, obj, place, parts, store)
        if progress is not None:
            progress.update(1, MiB=obj.size >> 20)
