"""Inputs that lie in a store: seen by a stage as paths, like all others."""

from __future__ import annotations

import functools
from pathlib import Path

from components.common.s3.address import address_of


def local_path(path: Path | str) -> Path:
    """`path` itself, or the whole local copy of what lies at an `s3://` address (see s3/copies.py)."""
    address = address_of(path)
    if address is None:
        return Path(path)
    from components.common.context import cache_root
    from components.common.s3.copies import local_copy

    return local_copy(address, cache_root() / "copies")


def fetched(value: str) -> str:
    """A value of an input on the command line, `PATH` or `NAME=PATH`, with a local copy in place of an address."""
    name, sign, path = value.partition("=")
    if sign and address_of(path) is not None:
        return f"{name}={local_path(path)}"
    return str(local_path(value))


@functools.cache
def content_at(address: str) -> str:
    """Content hash of what lies at an address, asked for once a process: a stage sees one moment of its inputs."""
    from components.common.s3.artifact import Artifact
    from components.common.s3.store import Store

    return Artifact.find(Store(), address).content
