"""The tables of a frame store: their columns, and how rows become a parquet file of always the same row groups."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 1 << 17  # rows held in memory before they go to the file: some ten megabytes

FRAME_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("frame", pa.int64()),
        ("pts_s", pa.float64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("cut", pa.bool_()),
    ]
)
VIDEO_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("key", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("fps", pa.float64()),
        ("duration_s", pa.float64()),
        ("n_frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
OBJECT_COLUMNS = pa.schema(
    [
        ("video", pa.int32()),
        ("frame", pa.int64()),
        ("track", pa.int32()),
        ("category", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("shard", pa.int32()),  # of the frame's label map, and where it lies there; empty where there is none
        ("offset", pa.int64()),
        ("size", pa.int32()),
    ]
)


class Groups:
    """A parquet file whose row groups have the same number of rows, whatever pieces come in."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._rows = schema.empty_table()
        self._writer = pq.ParquetWriter(file, schema)

    def append(self, table: pa.Table) -> None:
        """Take further rows, in the schema's columns."""
        self._rows = pa.concat_tables([self._rows, table])
        while self._rows.num_rows >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def close(self) -> None:
        """Write the rest and finish the file."""
        if self._rows.num_rows:
            self._flush(self._rows.num_rows)
        self._writer.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._writer.close()

    def _flush(self, count: int) -> None:
        """Write the first rows; in one chunk, since the bytes of a row group depend on how it is cut in memory."""
        self._writer.write_table(self._rows.slice(0, count).combine_chunks())
        self._rows = self._rows.slice(count)


class Table:
    """A parquet file that grows row by row and is held in memory one row group at a time.

    Args:
        file: to be written.
        schema: of the rows.
        remember: whether `taken` will ask for the rows.
    """

    def __init__(self, file: Path, schema: pa.Schema, remember: bool = False) -> None:
        self.n_rows = 0
        self.schema, self._rows = schema, list[tuple[object, ...]]()
        self._groups, self._remember, self._since = Groups(file, schema), remember, list[pa.Table]()

    def append(self, row: tuple[object, ...]) -> None:
        """Add a row, its values in the schema's order."""
        self._rows.append(row)
        self.n_rows += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def restore(self, rows: pa.Table) -> None:
        """Add rows that an earlier process has made."""
        self.n_rows += rows.num_rows
        self._groups.append(rows)

    def taken(self) -> pa.Table:
        """The rows that were appended since the last call."""
        self._flush()
        since, self._since = self._since, []
        return pa.concat_tables([self.schema.empty_table(), *since])

    def close(self) -> None:
        """Write the rest and finish the file."""
        self._flush()
        self._groups.close()

    def abandon(self) -> None:
        """Close the file as it is: it is no table."""
        self._groups.abandon()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
            table = pa.Table.from_arrays(arrays, schema=self.schema)
            self._rows = []
            self._groups.append(table)
            if self._remember:
                self._since.append(table)
