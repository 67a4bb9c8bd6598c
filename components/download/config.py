"""Parameters of the download stage: one model a source, chosen by `source`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.common.config import Params, Section, StageParams, nearest
from components.common.errors import StageError


class Unpack(Params):
    """How archives among the files are unpacked, and what is refused as a bomb."""

    enabled: bool = Field(
        True, description="unpack .zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz; else keep them as they are"
    )
    max_members: int = Field(2_000_000, ge=1, description="files in one archive")
    max_gib: float = Field(2048.0, gt=0, description="unpacked size of one archive")
    max_ratio: float = Field(200.0, gt=1, description="unpacked bytes per packed byte; video and JPEG stay near 1")


class BlurFaces(Params):
    """A program that blurs faces: `<command> <args> --ffmpeg-config JSON --output OUT IN` (deface's command line)."""

    command: str = Field("deface", min_length=1)
    args: list[str] = Field([], description="more arguments, such as [--thresh, '0.2']")
    encoder: dict[str, str | int] = Field(
        {"codec": "libx264", "quality": 7, "macro_block_size": 2},
        description="how results are encoded; deface's own would stretch 1080 lines to 1088, a multiple of 16",
    )


class SourceParams(StageParams):
    """What every source but the sample world has.

    `root` names a folder inside what was fetched that becomes the dataset (archives often hold one folder too many).
    With a `card` that folder is found by what it holds.
    """

    card: str | None = Field(None, description="the dataset's card: layout, counts, traps (--list prints them)")
    check: Literal["fail", "warn", "off"] = Field(
        "warn", description="what a difference between the folder and its card is taken for"
    )
    unpack: Unpack = Unpack()
    root: str = Field(".", description="folder of the fetched tree to keep")
    blur_faces: BlurFaces | None = Field(
        None, description="blur the faces of every video; null: leave them as they are"
    )
    version: str | int = Field(
        "", description="change it when what lies at the address has changed: no cache looks there by itself"
    )


class LocalParams(SourceParams):
    source: Literal["local"] = "local"
    path: str = Field(description="a file or folder; it is copied (or cloned where the file system can), never touched")


class Transfer(Params):
    """How hard to try, and when to give up."""

    timeout_s: float = Field(60.0, gt=0, description="longest silence of a server")
    retries: int = Field(6, ge=0, description="tries after the first, each going on from the bytes at hand")
    backoff_s: float = Field(
        1.0, ge=0, description="wait before the first retry; doubles each time, to a minute at most"
    )
    max_gib: float = Field(4096.0, gt=0, description="size limit of one file")


class Address(Params):
    url: str
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    md5: str | None = Field(None, pattern="^[0-9a-fA-F]{32}$", description="what older datasets publish")


class HttpParams(SourceParams):
    source: Literal["http"] = "http"
    files: list[Address] = Field(min_length=1)
    transfer: Transfer = Transfer()


class S3Params(SourceParams):
    source: Literal["s3"] = "s3"
    url: str = Field(pattern="^s3://[^/]+(/.*)?$", description="an object, or a prefix ending in / (or the bucket)")
    endpoint_url: str | None = Field(None, description="any S3-speaking server; credentials come from the environment")
    region: str | None = None
    part_mib: int = Field(16, ge=5, le=5120, description="an object is fetched in parts of this size")
    workers: int = Field(8, ge=1, le=64, description="parts in flight")
    transfer: Transfer = Transfer()


class Pages(Params):
    """Addresses that are pages of a video, not files: yt-dlp finds the streams, one rule chooses among them.

    The rule: of the streams with pictures, no higher than `max_height_px`, the one with the most pixels; of these the
    highest frame rate; then the first of `containers` that there is; then the highest bit rate. Sound is left out.
    """

    hosts: list[str] = Field(["youtube.com", "youtu.be"], description="and all below them")
    max_height_px: int | None = Field(None, ge=1, description="null: as large as there is")
    containers: list[str] = Field(["mp4", "webm"], description="the better first")


class ManyParams(SourceParams):
    """What sources of many addresses have."""

    endpoint_url: str | None = None
    region: str | None = None
    part_mib: int = Field(16, ge=5, le=5120)
    workers: int = Field(8, ge=1, le=64)
    max_dead_share: float = Field(0.05, ge=0, le=1, description="share of addresses that may fail; they are recorded")
    only: list[str] = Field([], description="names in the list to take; empty: all")
    pages: Pages = Pages()
    transfer: Transfer = Transfer()


class ListParams(ManyParams):
    """A text file of addresses, one a line: `address`, `address sha256`, or `address, name`.

    An address is http, https, s3, a path, or the page of a video (see `pages`).
    """

    source: Literal["list"] = "list"
    path: str = Field(description="the list file")


class PublishedParams(ManyParams):
    """The addresses that the dataset's own card names."""

    source: Literal["published"] = "published"
    card: str = Field(description="the dataset's card")
    mirror: str | None = Field(None, pattern="^https?://", description="fetch the card's files from below here instead")


def params_model(key: str | None, section: Section) -> type[StageParams]:
    """The model that fits the section's `source`; an entry that names a card need not say it."""
    from components.download.world.config import WorldParams

    models: dict[str, type[StageParams]] = {
        "procedural": WorldParams,
        "local": LocalParams,
        "http": HttpParams,
        "s3": S3Params,
        "list": ListParams,
        "published": PublishedParams,
    }
    source: Any = section.get("source", _source_by_card(section))
    if source not in models:
        raise StageError(f"download.{key}: source '{source}' is unknown{nearest(str(source), list(models))}")
    return models[source]


def _source_by_card(section: Section) -> str | None:
    """A folder if there is a `path`, a store if there is a `url`, else what the card says."""
    if section.get("card") is None:
        return None
    return "local" if "path" in section else "s3" if "url" in section else "published"
