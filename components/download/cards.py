"""Cards: what is known of a published dataset, as data. One YAML file each in cards/.

A card says where the dataset comes from and on what terms, how its folder looks, how many files of what kind it holds,
how much disk it takes and what has tripped people up. The stage unpacks, arranges and checks by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from components.common.config import Params, nearest, parse, read_yaml
from components.common.errors import StageError
from components.download.config import Address

FOLDER = Path(__file__).with_name("cards")
Step = Literal["imagenet", "sbd", "tcore"]


class Count(Params):
    """One published number: files, folders, either, or lines of a list. Patterns are pathlib's, below the dataset."""

    what: str = Field(min_length=1, description="what is counted, in the plural")
    expected: int = Field(ge=0)
    files: str | None = None
    folders: str | None = None
    either: str | None = None
    lines: str | None = Field(None, description="a text file; blank lines do not count")
    split: str | None = Field(None, description="name of the split that this is the size of")
    part: str | None = Field(
        None, description="a folder that one may do without; nothing is counted where it is missing"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Count:
        if sum(way is not None for way in (self.files, self.folders, self.either, self.lines)) != 1:
            raise ValueError("a count has one of `files`, `folders`, `either`, `lines`")
        return self


class Listed(Params):
    """Every name of a list has its file or folder: `{}` of `place` stands for the first word of a line."""

    names: str
    place: str = Field(pattern=r"\{\}")


class Pairs(Params):
    """Two trees hold the same names, whatever the extensions; `sparse`: those of `right` may be fewer.

    Names are those of the files at any depth, or of all that lies `depth` levels below.
    """

    what: tuple[str, str] = Field(description="what lies in the two, in the plural")
    left: list[str] = Field(min_length=1, description="folders, by pattern")
    right: list[str] = Field(min_length=1)
    sparse: bool = False
    depth: int | None = Field(None, ge=1)


class Into(Params):
    """Archives of one kind unpack into a folder beside them; `{}` stands for the archive's name without its ending."""

    archive: str
    folder: str


class Disk(Params):
    """In 1e9 bytes, about; before: what is fetched, after: what is kept."""

    before_gb: float = Field(ge=0)
    after_gb: float = Field(ge=0)


class Corpus(Params):
    """Videos to learn from, for forecasts; means over all. `assumed` names what nobody has published."""

    videos: int = Field(gt=0)
    video_s: float = Field(gt=0)
    fps: float = Field(gt=0)
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    assumed: list[str] = Field([])


class Pictures(Params):
    """Pictures of a benchmark, for forecasts; means over all."""

    train_pictures: int = Field(ge=0)
    pictures: int = Field(gt=0)
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)


class Card(Params):
    """A published dataset.

    Attributes:
        title, page, licence, terms, citation: for people; `used_for`: by which methods or evaluations.
        files: where it can be fetched by anyone; `names`: address of a list file of such addresses. Neither: `fetch`
            says what a person must do.
        only: names in the list that make up this dataset; `checksums`: MD5 of archives, by file name.
        holds: what the dataset's folder holds, in alternatives; the folder is found by it, at whatever depth.
        into, steps: how it is unpacked and arranged.
        counts, listed, pairs, unique, json_files: what is checked. `unique`: no two files have one name.
        streams: what ffmpeg says of each video is recorded.
        ignore_label: value of pixels without a label.
    """

    title: str
    used_for: str
    page: str = Field(pattern="^https?://")
    licence: str
    terms: str
    citation: str
    fetch: str = ""
    files: list[Address] = Field([])
    names: str | None = None
    only: list[str] = Field([])
    checksums: dict[str, str] = Field({}, description="MD5 of archives that a person must fetch, by file name")
    disk: Disk
    holds: list[list[str]] = Field([])
    into: list[Into] = Field([])
    steps: list[Step] = Field([])
    counts: list[Count] = Field(min_length=1)
    listed: list[Listed] = Field([])
    pairs: list[Pairs] = Field([])
    unique: str | None = None
    json_files: list[str] = Field([])
    streams: bool = False
    ignore_label: int | None = None
    corpus: Corpus | None = None
    pictures: Pictures | None = None
    traps: list[str] = Field([])

    @model_validator(mode="after")
    def _can_be_had(self) -> Card:
        if not (self.files or self.names or self.fetch):
            raise ValueError("a card names `files`, `names`, or says in `fetch` how to come by the dataset")
        return self


def card_names() -> list[str]:
    """All cards, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_card(name: str) -> Card:
    """The card of a dataset; raises StageError when there is none of this name, or it is not valid."""
    file = FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise StageError(f"no card '{name}'{nearest(name, card_names())}", do="python -m components.download --list")
    return parse(Card, read_yaml(file), f"cards/{name}.yaml")


def table() -> str:
    """All cards as a table for a terminal."""
    head = ("card", "dataset", "used for", "counts", "disk, GB", "licence", "from")
    rows = [head, *(_row(name, read_card(name)) for name in card_names())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(name: str, card: Card) -> tuple[str, ...]:
    counts = ", ".join(f"{count.expected:,} {count.what}" for count in card.counts[:2])
    source = "its own addresses" if card.files or card.names else "by hand"
    disk = f"{card.disk.before_gb:g} > {card.disk.after_gb:g}"
    return name, card.title, card.used_for, counts, disk, card.licence, source


def told(name: str) -> str:
    """One card for a terminal, with what to do and what to beware of."""
    card = read_card(name)
    lines = [card.title, f"  page      {card.page}", f"  licence   {card.licence}: {card.terms}"]
    lines += [f"  cite      {card.citation}", f"  used for  {card.used_for}"]
    lines += [f"  counts    {count.expected:,} {count.what}" for count in card.counts]
    lines += [f"  disk      {card.disk.before_gb:g} GB fetched, {card.disk.after_gb:g} GB kept"]
    lines += [f"  file      {file.url}" + (f"  md5 {file.md5}" if file.md5 else "") for file in card.files]
    lines += [f"  md5       {md5}  {name}" for name, md5 in card.checksums.items()]
    lines += [f"  list      {card.names}"] if card.names else []
    lines += [f"  fetch     {card.fetch}"] if card.fetch else []
    return "\n".join(lines + [f"  beware    {trap}" for trap in card.traps])
