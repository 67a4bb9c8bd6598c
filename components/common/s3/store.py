"""One S3-speaking store: requests that are tried again where that can help, and are checked for being whole.

botocore's own retries end with the headers of an answer; a body that breaks off comes to its caller as an exception,
or not at all. Here one attempt is the request with its body, and botocore makes a single one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from components.common.errors import StageError
from components.common.s3.address import SCHEME, split
from components.common.s3.errors import DO, REPLACED, ShortBodyError, code_of, explained, is_passing
from components.common.s3.params import S3Params

T = TypeVar("T")
QUIET_TRIES = 2  # a failure that passes at once is no news


@dataclass(frozen=True)
class Object:
    """One object as it was when it was listed; `etag` changes with its content."""

    bucket: str
    key: str
    size: int
    etag: str

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


class Store:
    """Requests to the store. Safe to share with threads, and with forked or spawned workers.

    Every method raises StageError for what trying again does not mend: no access, no such bucket, no credentials, or a
    store that stays away (exit code UNREACHABLE).
    """

    def __init__(self, params: S3Params | None = None) -> None:
        self.params = params or S3Params.of_environment()
        self._client: tuple[int, Any] = (0, None)
        self._rng = random.Random()  # waits differ between workers; the global generator is left alone

    def __reduce__(self) -> tuple[type[Store], tuple[S3Params]]:
        return Store, (self.params,)

    @property
    def client(self) -> Any:
        """This process's boto3 client: a forked worker must not write into its parent's connections."""
        if self._client[0] != os.getpid():
            surroundings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
            self._client = (os.getpid(), _make_client(os.getpid(), self.params, surroundings))
        return self._client[1]

    def listing(self, prefix: str) -> list[Object]:
        """Every object whose address starts with `prefix`, sorted; folder placeholders are left out."""
        rows = [row for page in self._pages(prefix) for row in page.get("Contents", [])]
        bucket, _ = split(prefix)
        found = [Object(bucket, r["Key"], r["Size"], r["ETag"]) for r in rows if not r["Key"].endswith("/")]
        return sorted(found, key=lambda obj: obj.key)

    def head(self, address: str) -> Object | None:
        """The object at `address`; None where there is none."""
        bucket, key = split(address)
        try:
            found = self.call(address, "head_object", Bucket=bucket, Key=key)
        except StageError as error:
            if error.what == "no such object":
                return None
            raise
        return Object(bucket, key, found["ContentLength"], found["ETag"])

    def read(self, obj: Object, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of an object; StageError if it is another one than was listed."""
        end = obj.size if end is None else end
        if start >= end:
            return b""
        return self._call(obj.address, lambda: self._range(obj, start, end))

    def put(self, address: str, data: bytes) -> str:
        """Write an object whole; returns its ETag."""
        bucket, key = split(address)
        return str(self.call(address, "put_object", Bucket=bucket, Key=key, Body=data, ContentMD5=md5(data))["ETag"])

    def delete(self, address: str) -> None:
        """Remove an object of our own; one that is gone already is no error."""
        bucket, key = split(address)
        self.call(address, "delete_object", Bucket=bucket, Key=key)

    def call(self, where: str, operation: str, **arguments: Any) -> Any:
        """Any other operation of boto3's client, with the same patience."""
        return self._call(where, lambda: getattr(self.client, operation)(**arguments))

    def side_by_side(self, jobs: Iterable[Callable[[], T]]) -> list[T]:
        """Run jobs in `workers` threads; results in their order.

        At the first failure no further one is started, and those that run are waited for: they write to our files.
        """
        _ = self.client  # made once, not once a thread
        with ThreadPoolExecutor(self.params.workers) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            return [future.result() for future in futures]

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        bucket, key = split(prefix)
        asked = {"Bucket": bucket, "Prefix": key}
        while True:
            page = self.call(prefix, "list_objects_v2", **asked)
            yield page
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _range(self, obj: Object, start: int, end: int) -> bytes:
        got = self.client.get_object(Bucket=obj.bucket, Key=obj.key, Range=f"bytes={start}-{end - 1}", IfMatch=obj.etag)
        if got["ETag"] != obj.etag:  # a store that does not know If-Match
            got["Body"].close()
            raise StageError(REPLACED, where=obj.address, do=DO[REPLACED])
        came = got.get("ContentRange", "")
        if came and came.split("/")[0].removeprefix("bytes ") != f"{start}-{end - 1}":
            raise ShortBodyError(f"asked for bytes {start}-{end - 1}, {came} came")
        body: bytes = got["Body"].read(end - start + 1)
        if len(body) != end - start:
            got["Body"].close()  # what is left of a longer one must not be taken for the next answer
            raise ShortBodyError(f"{len(body)} of {end - start} bytes came")
        return body

    def _call(self, where: str, attempt: Callable[[], T]) -> T:
        """Exponential backoff with full jitter: waits uniform in 0..longest, so that workers do not return together."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        for tries in range(1, self.params.retries + 2):
            try:
                return attempt()
            except (ClientError, BotoCoreError, ResponseParserError, ShortBodyError) as error:
                if not is_passing(error) or tries > self.params.retries:
                    raise explained(error, where, tries) from None
                self._wait(where, error, tries)
        raise AssertionError("the last try returns or raises")

    def _wait(self, where: str, error: Exception, tries: int) -> None:
        if tries > QUIET_TRIES:
            reason = code_of(error) or type(error).__name__
            print(f"[s3] {where}: {reason}, try {tries} of {self.params.retries + 1}", file=sys.stderr, flush=True)
        longest = min(self.params.backoff_s * 2 ** (tries - 1), self.params.backoff_max_s)
        time.sleep(self._rng.uniform(0, longest))


def md5(data: bytes) -> str:
    """Content-MD5: every store refuses a body that was damaged on the way; newer checksums are known to some only."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@functools.lru_cache(maxsize=8)
def _make_client(process: int, params: S3Params, surroundings: tuple[tuple[str, str], ...]) -> Any:
    """One client for all stores of a process that would make the same: making one takes 0.1 to 0.3 s."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise StageError("boto3 is not installed, and an s3:// address needs it", do="pip install boto3") from None
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=params.timeout_s,
        read_timeout=params.timeout_s,
        max_pool_connections=params.workers,
        request_checksum_calculation="when_required",  # the default sends trailers that many stores do not know
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3", endpoint_url=params.endpoint_url, region_name=params.region, config=config
    )
