"""An artifact in a store: a file or a folder, when it is whole, and what it holds.

.longtake.json                the stage's marker, sent last: its hash names the content
.longtake.uploading.partial   there while an upload is under way, or after one was killed
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from components.common.errors import StageError
from components.common.hashing import NOT_CONTENT, json_hash
from components.common.outputs import MARKER
from components.common.s3.address import SCHEME, name_of
from components.common.s3.store import Object, Store

UPLOADING = ".longtake.uploading.partial"


@dataclass(frozen=True)
class Artifact:
    """What lies at an address at one moment.

    Attributes:
        address: of the file or folder.
        objects: name below the folder -> object; of a single file, "" -> object.
        content: hash of it: the marker's where it fits what is there, else of names, sizes and ETags.
    """

    address: str
    objects: dict[str, Object]
    content: str

    @classmethod
    def find(cls, store: Store, address: str) -> Artifact:
        """Look at an address; StageError where nothing is there, or not all of it yet."""
        alone = store.head(address) if "/" in address.removeprefix(SCHEME) else None
        objects = {"": alone} if alone is not None else listing_below(store, address)
        if not objects:
            raise StageError("nothing at this address", where=address, do="run the stage that makes it first")
        if UPLOADING in objects:
            what = "not whole, an upload is under way or was broken off"
            raise StageError(what, where=address, do="wait for it, or run its stage again")
        return cls(address, objects, marked_content(store, objects) or _listed_content(address, objects))


def listing_below(store: Store, address: str) -> dict[str, Object]:
    """Name below a folder -> object, none where nothing is there; StageError for a key that leaves the folder."""
    found = {}
    for obj in store.listing(f"{address}/"):
        name = obj.address.removeprefix(f"{address}/")
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StageError(f"refused the key '{obj.key}', its path leaves the folder", where=address)
        found[name] = obj
    return found


def _marker(store: Store, objects: dict[str, Object]) -> dict[str, Any]:
    try:
        facts = json.loads(store.read(objects[MARKER])) if MARKER in objects else {}
    except ValueError:
        facts = {}
    return facts if isinstance(facts, dict) else {}


def marked_content(store: Store, objects: dict[str, Object]) -> str:
    """Content hash in the marker; empty where there is no marker, or where objects were added or taken since."""
    facts = _marker(store, objects)
    sizes = [obj.size for name, obj in objects.items() if _is_content(name)]
    fits = (facts.get("files"), facts.get("bytes")) == (len(sizes), sum(sizes))
    return str(facts.get("content", "")) if fits else ""


def _listed_content(address: str, objects: dict[str, Object]) -> str:
    rows = [[name, obj.size, obj.etag] for name, obj in sorted(objects.items())]
    return json_hash([name_of(address), rows])


def _is_content(name: str) -> bool:
    """As hashing.files_below sees it."""
    return not any(part.endswith(".partial") or part in NOT_CONTENT for part in name.split("/"))
