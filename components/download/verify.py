"""Is a folder the dataset that its card describes? Counted by the card's rules; no file is read but lists and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.common.errors import StageError
from components.download.archives import TAR_ENDINGS
from components.download.cards import Card, Count, Listed, Pairs

NAMED = 3  # examples in one line
LARGE_BYTES = 64 << 20  # JSON above this is not parsed: COCO's takes gigabytes of memory


@dataclass
class Found:
    """What the folder holds: (what, there, published) of each count, and one line for everything that is amiss."""

    counts: list[tuple[str, int, int]] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    amiss: list[str] = field(default_factory=list)

    @property
    def as_published(self) -> bool:
        """Nothing is amiss."""
        return not self.amiss

    def line(self, name: str) -> str:
        """One line: the counts against the published ones."""
        told = ", ".join(f"{n:,} {what}" if n == of else f"{n:,} of {of:,} {what}" for what, n, of in self.counts)
        return f"{name}: {told}{', as published' if self.as_published else ''}"


def verify(root: Path, card: Card) -> Found:
    """Compare the dataset at `root` with its card."""
    found = Found()
    for count in card.counts:
        if count.part is not None and not (root / count.part).exists():
            continue
        there = _count(root, count)
        found.counts.append((count.what, there, count.expected))
        if count.split:
            found.splits[count.split] = there
    if not found.counts:
        found.amiss.append("nothing of what the card counts is there")
    short = [f"{n:,} of {of:,} {what}" for what, n, of in found.counts if n != of]
    if short:
        found.amiss.append(f"not as published: {', '.join(short)}; is everything unpacked?")
    for rule in card.listed:
        found.amiss += _listed(root, rule)
    for pairs in card.pairs:
        found.amiss += _pairs(root, pairs)
    found.amiss += _unique(root, card.unique) if card.unique else []
    for pattern in card.json_files:
        found.amiss += [line for file in sorted(root.glob(pattern)) if (line := _json(root, file))]
    found.amiss += [*_unfinished(root), *_packed(root)]
    return found


def _count(root: Path, count: Count) -> int:
    if count.lines is not None:
        return len(_names(root / count.lines))
    if count.folders is not None:
        return sum(path.is_dir() for path in _matching(root, count.folders))
    if count.either is not None:
        return sum(1 for _ in _matching(root, count.either))
    return sum(path.is_file() for path in _matching(root, count.files or "*"))


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    return (path for path in root.glob(pattern) if not path.name.startswith("."))


def _names(file: Path) -> list[str]:
    """First words of a list's lines; none where the list is missing, which its count tells."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in lines if line.strip()]


def _listed(root: Path, rule: Listed) -> list[str]:
    names = _names(root / rule.names)
    missing = [name for name in names if not (root / rule.place.replace("{}", name)).exists()]
    if not missing:
        return []
    return [f"{rule.names} names {len(names):,}, of which {len(missing):,} are not there: {_some(missing)}"]


def _pairs(root: Path, rule: Pairs) -> list[str]:
    left, right = (_below(root, patterns, rule.depth) for patterns in (rule.left, rule.right))
    if not left or not right:
        return []  # the counts say so
    lines = []
    without, strays = sorted(left - right), sorted(right - left)
    if without and not rule.sparse:
        lines.append(f"{len(without):,} {rule.what[0]} have no {rule.what[1]}: {_places(without)}")
    if strays:
        lines.append(f"{len(strays):,} {rule.what[1]} belong to no {rule.what[0]}: {_places(strays)}")
    return lines


def _below(root: Path, patterns: Iterable[str], depth: int | None) -> set[str]:
    """Paths without extension of all files below the folders that match, or of all that lies at `depth`."""
    folders = [folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir()]
    found = (
        (path, folder) for folder in folders for path in _matching(folder, "/".join("*" * depth) if depth else "**/*")
    )
    return {
        path.relative_to(folder).with_suffix("").as_posix()
        for path, folder in found
        if depth is not None or path.is_file()
    }


def _places(names: list[str]) -> str:
    """Examples; names of one folder are told as the folder and how many."""
    folders = Counter(name.rpartition("/")[0] for name in names)
    if len(names) <= NAMED or not all(folders):
        return _some(names)
    return _some([f"{folder} ({count})" for folder, count in sorted(folders.items())])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _unique(root: Path, pattern: str) -> list[str]:
    stems = Counter(path.stem for path in _matching(root, pattern))
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    return [f"{len(twice):,} names are used by two videos or more: {_some(twice)}; all are kept"] if twice else []


def _json(root: Path, file: Path) -> str:
    """ "" for JSON; of a large file only the end is looked at, where a transfer that broke off shows."""
    name = file.relative_to(root).as_posix()
    try:
        if file.stat().st_size <= LARGE_BYTES:
            json.loads(file.read_bytes())
        elif not _ends_well(file):
            return f"{name} does not parse as JSON, it ends early"
    except (ValueError, OSError) as error:
        return f"{name} does not parse as JSON, {error}"
    return ""


def _ends_well(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1024, os.SEEK_END)
        return stream.read().rstrip()[-1:] in (b"}", b"]")


def _unfinished(root: Path) -> Iterator[str]:
    """Files that a broken unpacking or transfer leaves: empty ones, and `.part`, `.crdownload` and the like."""
    bad = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and (path.suffix in (".part", ".crdownload", ".tmp", ".filepart") or not path.stat().st_size)
    ]
    if bad:
        yield f"{len(bad):,} files are empty or unfinished: {_some(sorted(bad))}"


def _packed(root: Path) -> Iterator[str]:
    """Archives that are still there: they could not be opened, or were not to be."""
    names = sorted(
        p.relative_to(root).as_posix() for p in root.rglob("*") if p.name.lower().endswith((*TAR_ENDINGS, ".zip"))
    )
    if names:
        yield f"{len(names):,} archives are still packed, perhaps because they are not whole: {_some(names)}"


def find_root(tree: Path, card: Card) -> Path:
    """The folder that holds what the card says, as near to the top as there is one; `tree` where none does.

    Raises:
        StageError: two folders at the same depth do.
    """
    for wanted in card.holds:
        level = [tree]
        while level:
            found = [folder for folder in level if all((folder / name).exists() for name in wanted)]
            if len(found) > 1:
                places = ", ".join(folder.relative_to(tree).as_posix() for folder in found[:NAMED])
                what = f"{len(found)} folders look like this dataset: {places}"
                raise StageError(what, where=tree, do="say with `root` which one is meant")
            if found:
                return found[0]
            level = [entry for folder in level for entry in sorted(folder.iterdir()) if entry.is_dir()]
    return tree


def check_sums(fetched: Path, sums: Mapping[str, str]) -> None:
    """Compare archives that a person has fetched with the published MD5; raises StageError for one that differs."""
    for file in sorted(path for path in fetched.rglob("*") if path.name in sums and path.is_file()):
        with file.open("rb") as stream:  # published sums of some age; against accidents only
            got = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if got != sums[file.name].lower():
            what = f"the MD5 of {file.name} differs: published {sums[file.name]}, got {got}"
            raise StageError(what, do="fetch the archive again")
