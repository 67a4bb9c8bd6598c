"""Addresses of objects and prefixes: `s3://bucket/key`."""

from __future__ import annotations

import os

from components.common.errors import StageError

SCHEME = "s3://"


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that `path` is, without a slash at its end; None for a path of this machine.

    `Path("s3://bucket/key")` folds the two slashes into one, so that spelling is an address too: code that hands paths
    on need not know which of them lie in a store.

    Raises:
        StageError: an address without a bucket.
    """
    text = os.fspath(path)
    if not text.startswith("s3:/"):
        return None
    below = text.removeprefix("s3:").lstrip("/").rstrip("/")
    if not below:
        raise StageError("an address without a bucket", where=text, do="write s3://bucket/prefix")
    return SCHEME + below


def split(address: str) -> tuple[str, str]:
    """(bucket, key); the key is kept letter by letter, a slash at its end too."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    return bucket, key


def name_of(address: str) -> str:
    """The last part of an address, which names the file or folder."""
    return address.rstrip("/").rpartition("/")[2]
