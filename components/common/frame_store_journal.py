"""What of a frame store is finished, kept through kills: each whole shard, with the rows of its frames.

A store is put together in minutes to hours where it holds terabytes. With a journal, the writer goes on behind the last
whole shard: shards stay where they are and are known again by size, time and inode; rows come back from the journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.common.frame_store_shards import Facts

LINES, ROWS = "journal.jsonl", "rows.arrow"


class Journal:
    """Lines in a file that only grows, one a shard, and the rows they speak of in another.

    Args:
        folder: that survives kills.
        identity: of the store; what was told of another one is forgotten.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines, self._rows = folder / LINES, folder / ROWS
        self._told = self._read(identity)
        self._thread, self._pending = ThreadPoolExecutor(1), Future[None]()
        self._pending.set_result(None)
        if not self._told:
            self._lines.write_text(json.dumps({"identity": identity}) + "\n", encoding="utf-8")
            self._rows.write_bytes(b"")

    def kept(self, path: Path) -> dict[str, Facts]:
        """Facts of the whole shards of `path`, from the first on; all else is removed from that folder."""
        whole = 0
        while whole < len(self._told) and _state(path / self._told[whole]["shard"]) == self._told[whole]["state"]:
            whole += 1
        self._told = self._told[:whole]
        names = {told["shard"] for told in self._told}
        for file in path.iterdir():
            if file.name not in names:
                file.unlink()
        self._forget_others()
        return {told["shard"]: told["facts"] for told in self._told}

    def rows(self, table: str, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of a table that belong to the shards kept."""
        with self._rows.open("rb") as file:
            for told in self._told:
                at, size = told["rows"][table]
                file.seek(at)
                with pa.ipc.open_stream(file.read(size)) as stream:
                    yield stream.read_all().cast(schema)

    def add(self, path: Path, shard: str, facts: Facts, tables: Mapping[str, pa.Table]) -> None:
        """Note a shard that is whole, with all rows that were made since the one before; the disk is waited for aside.

        Raises:
            OSError: the shard before could not be kept.
        """
        self._pending.result()
        self._pending = self._thread.submit(self._add, path, shard, facts, tables)

    def close(self) -> None:
        """Wait until all is on disk; raises OSError."""
        self._thread.shutdown()
        self._pending.result()

    def _add(self, path: Path, shard: str, facts: Facts, tables: Mapping[str, pa.Table]) -> None:
        """What is said to be whole must be so after a power cut, too."""
        with (path / shard).open("rb") as file:
            os.fdatasync(file.fileno())
        places = {name: self._append(table) for name, table in tables.items()}
        told = {"shard": shard, "state": _state(path / shard), "facts": facts, "rows": places}
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")

    def _append(self, table: pa.Table) -> tuple[int, int]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data = sink.getvalue()
        with self._rows.open("ab") as file:
            at = file.tell()
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        return at, len(data)

    def _read(self, identity: str) -> list[dict[str, Any]]:
        """What was told of this store; a line that a kill has cut off ends it."""
        told: list[dict[str, Any]] = []
        try:
            lines = self._lines.read_bytes().split(b"\n")[:-1]
            told = [json.loads(line) for line in lines]
        except (FileNotFoundError, ValueError):
            return []
        return told[1:] if told and told[0] == {"identity": identity} else []

    def _forget_others(self) -> None:
        """Leave only the lines of shards kept: new ones would else come behind those that no longer count."""
        head = self._lines.read_text(encoding="utf-8").split("\n", 1)[0]
        lines = [head, *map(json.dumps, self._told)]
        partial = self._lines.with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(self._lines)


def _state(file: Path) -> list[int]:
    """By which a shard is known again."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ino]
