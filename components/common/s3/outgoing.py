"""A stage's outputs that go to a store: built in the cache, whole, then sent.

The stage and its contract see folders and files of this machine. What was built stays until it is sent: after a kill,
or a store that was away for too long, the same command only sends the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.common import hashing, outputs
from components.common.s3.address import address_of, name_of
from components.common.s3.store import Store
from components.common.s3.upload import check_new_place, upload_file, upload_folder

BUILT = "built.json"


class Outgoing:
    """Places of a stage's outputs, of which some are addresses.

    Args:
        given: output name -> path or address, as on the command line.
        cache: a folder that outlives a killed process.

    Raises:
        StageError: an address holds something that no stage has made, or its store cannot be used: told before hours
            of work, not after.
    """

    def __init__(self, given: dict[str, str], cache: Path) -> None:
        found = {name: address_of(value) for name, value in given.items()}
        self.addresses = {name: address for name, address in found.items() if address is not None}
        self.folder = cache / "outgoing" / hashing.json_hash(sorted(self.addresses.values()))
        self.places = {name: self._local(name, value) for name, value in given.items()}
        self._all_remote = set(self.addresses) == set(given)
        self._store = Store() if self.addresses else None
        if self._store is not None:
            for address in self.addresses.values():
                check_new_place(self._store, address)

    def _local(self, name: str, value: str) -> Path:
        address = self.addresses.get(name)
        return Path(value) if address is None else self.folder / name / name_of(address)

    def built(self, fingerprint: str) -> dict[str, dict[str, Any]] | None:
        """The notes of an execution that had finished everything but sending; None where the stage must run."""
        try:
            facts = json.loads((self.folder / BUILT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        there = all(place.exists() for place in self.places.values())
        return facts["notes"] if self._all_remote and there and facts["fingerprint"] == fingerprint else None

    def keep(self, fingerprint: str, notes: dict[str, dict[str, Any]]) -> None:
        """Remember that the outputs are whole, before they are sent."""
        if self.addresses:
            outputs.write_text(self.folder / BUILT, json.dumps({"fingerprint": fingerprint, "notes": notes}))

    def forget(self) -> None:
        """The outputs are about to be built anew."""
        (self.folder / BUILT).unlink(missing_ok=True)

    def send(self) -> None:
        """Send every output that goes to a store, then drop the local ones."""
        if self._store is None:
            return
        for name, address in self.addresses.items():
            send = upload_folder if self.places[name].is_dir() else upload_file
            send(self._store, self.places[name], address)
        outputs.remove(self.folder)
