"""A stage's outputs that go to a store: built in the cache, whole, then sent.

The stage and its contract see folders and files of this machine. What was built stays until it is sent: after a kill,
or a store that was away for too long, the same command only sends the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

from components.common import hashing, outputs
from components.common.context import Context, cache_root
from components.common.s3.address import address_of, name_of
from components.common.s3.store import Store
from components.common.s3.upload import check_new_place, upload_file, upload_folder

BUILT = "built.json"


class Outgoing:
    """Places of a stage's outputs, of which some are addresses.

    Attributes:
        places: output name -> path on this machine; for an address, one in the cache.

    Raises:
        StageError: an address holds something that no stage has made, or its store cannot be used: told before hours
            of work, not after.
    """

    def __init__(self, given: dict[str, str]) -> None:
        addresses = {name: address_of(value) for name, value in given.items()}
        self.addresses = {name: address for name, address in addresses.items() if address is not None}
        self.folder = cache_root() / "outgoing" / hashing.json_hash(sorted(self.addresses.values()))
        self.places = {
            name: self.folder / name / name_of(self.addresses[name]) if name in self.addresses else Path(value)
            for name, value in given.items()
        }
        for address in self.addresses.values():
            check_new_place(Store(), address)

    def is_built(self, ctx: Context) -> bool:
        """Whether an earlier, killed execution had done all but sending; its notes are then put into `ctx`."""
        file = self.folder / BUILT
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        there = set(self.addresses) == set(self.places) and all(place.exists() for place in self.places.values())
        if there and facts["fingerprint"] == ctx.fingerprint:
            ctx.notes.update(facts["notes"])
            ctx.log("built by an earlier run that could not send it; sending the rest")
            return True
        file.unlink()  # what it speaks of is about to be replaced
        return False

    def send(self, ctx: Context) -> None:
        """Send what goes to a store, then drop the local copies."""
        if not self.addresses:
            return
        facts = {"fingerprint": ctx.fingerprint, "notes": ctx.notes}
        outputs.write_text(self.folder / BUILT, json.dumps(facts))
        for name, address in self.addresses.items():
            send = upload_folder if self.places[name].is_dir() else upload_file
            send(Store(), self.places[name], address)
            ctx.log(f"sent: {address}")
        outputs.remove(self.folder)
