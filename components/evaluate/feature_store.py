"""Features that tasks share: one pass of an encoder over some pictures serves every task that wants the same.

An entry is a folder named by a key of all that decides its bytes: the encoder (weights, architecture, position quirk,
fit), the pictures' content, what is done to them and what is taken, the batch, the device, and the code. One process
fills an entry while others wait for it, and none is removed while it is read. At the end of every evaluation those not
used for longest go until at most `limit_bytes` are left; none stays unused for more than a week.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common import hashing
from components.common.claims import Claim
from components.common.context import LEFT_AFTER_S, PACKAGES
from components.common.errors import StageError
from components.common.outputs import remove, write_text
from components.evaluate.images import ahead

Look = Callable[[Path], NDArray[np.uint8]]

WHOLE, USED = "whole.json", "used"
POLL_S = 0.5
PROBES = 3  # pictures whose pixels go into the key: two transforms of one name must not be taken for each other


@dataclass(frozen=True)
class Transform:
    """What becomes of a picture: tasks that say the same here share their features.

    Attributes:
        name: how it is brought to the network, in words.
        sizes: the numbers in it, in pixels.
        takes: which features are kept: `cls`, `patches`, `taps4`, ...
    """

    name: str
    sizes: tuple[int, ...]
    takes: str


class FeatureStore:
    """The shared features of one encoder on one device, for the length of one evaluation.

    Args:
        root: folder of all entries, common to all evaluations that may share.
        locks: folder of the lock files (see claims.py).
        encoder: `Encoder.identity` and the kind of device.
        limit_bytes: what may stay on disk between evaluations; 0 keeps nothing.
        log: prints one line for people.
    """

    def __init__(self, root: Path, locks: Path, encoder: str, limit_bytes: int, log: Callable[[str], None]) -> None:
        self.root, self.locks, self.encoder, self.limit_bytes, self.log = root, locks, encoder, limit_bytes, log
        self._claims: dict[Path, Claim] = {}

    def key(self, files: Sequence[Path], look: Look, transform: Transform, batch_images: int, workers: int) -> str:
        """The entry's name. Pictures count by content and order, not by where they lie."""
        chosen = sorted({round(share * (len(files) - 1) / (PROBES - 1)) for share in range(PROBES)}) if files else []
        pixels = hashlib.sha256(b"".join(look(files[i]).tobytes() for i in chosen)).hexdigest()
        code = hashing.code_hash([PACKAGES / "common", PACKAGES / "evaluate"])
        data = self._content(files, workers)
        return hashing.json_hash([self.encoder, data, asdict(transform), pixels, batch_images, code])

    def open(self, key: str) -> Path:
        """The entry's folder: whole and held for reading, or ours alone to fill.

        Waits while another process fills it. Held until `release`.
        """
        folder, said = self.root / key, False
        while folder not in self._claims:
            claim, whole = Claim([folder], self.locks), (folder / WHOLE).exists()
            if not claim.take(shared=whole):
                if not said:
                    self.log("another evaluation computes the same features; waiting for it")
                said = True
                time.sleep(POLL_S)
            elif whole and not (folder / WHOLE).exists():
                claim.release()  # removed between the look and the lock
            else:
                self._claims[folder] = claim
        folder.mkdir(parents=True, exist_ok=True)
        (folder / USED).touch()
        return folder

    def filled(self, folder: Path, transform: Transform, n_pictures: int) -> None:
        """Say that an entry is whole; from now on it is only read."""
        if not (folder / WHOLE).exists():
            write_text(folder / WHOLE, json.dumps({**asdict(transform), "pictures": n_pictures}) + "\n")
            self._claims[folder].share()

    def release(self) -> None:
        """Let others have what this evaluation held; what is half filled waits for the next one."""
        while self._claims:
            self._claims.popitem()[1].release()

    def tidy(self) -> None:
        """Remove the least recently used entries beyond the limit, and all that lay unused for a week."""
        entries = sorted((_last_use(folder), _size(folder), folder) for folder in self.root.glob("*/"))
        total = sum(size for _, size, _ in entries)
        for used, size, folder in entries:
            claim = Claim([folder], self.locks)
            if (total > self.limit_bytes or time.time() - used > LEFT_AFTER_S) and claim.take():
                remove(folder)
                claim.release()
                total -= size
        for known in self.root.glob("*.content"):
            with suppress(FileNotFoundError):  # another evaluation tidies, too
                if time.time() - known.stat().st_mtime > LEFT_AFTER_S:
                    known.unlink()

    def _content(self, files: Sequence[Path], workers: int) -> str:
        """Hash of the files' bytes in order; read again only where size or times have changed, as git does."""
        seen = hashlib.sha256()
        for file in files:
            try:
                facts = file.stat()
            except FileNotFoundError:
                raise StageError("no such picture", where=file) from None
            seen.update(f"{file.absolute()}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}\n".encode())
        known = self.root / f"{seen.hexdigest()[: hashing.HEX_DIGITS]}.content"
        claim = Claim([known], self.locks)
        while not claim.take():  # two pods may have one process number, and so one name for what is half written
            time.sleep(POLL_S)
        try:
            if not known.exists():
                digest = hashlib.sha256()
                for content in ahead(hashing.file_hash, files, workers):
                    digest.update(content.encode())
                write_text(known, digest.hexdigest())
            known.touch()
            return known.read_text(encoding="utf-8")
        finally:
            claim.release()


def _last_use(folder: Path) -> float:
    try:
        return (folder / USED).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    """Bytes in an entry; 0 for one that another evaluation removes meanwhile."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0
