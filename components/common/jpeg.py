"""Just enough of JPEG's syntax (ITU-T T.81, annex B) to cut a stream into files and to read a picture's size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
START_OF_SCAN, BASELINE, APP1, APP14 = 0xDA, 0xC0, 0xE1, 0xEE
ADOBE_YCBCR = 1
# SOF0..SOF15 carry the size; C4, C8 and CC of that range are tables, not frames (T.81, table B.1).
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
CHUNK_BYTES = 1 << 20  # one read of the pipe; a thousand frames cost some twenty system calls


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the header; raises ValueError when `jpeg` is not one."""
    for marker, at in _segments(jpeg):
        if marker in START_OF_FRAME and at + 9 <= len(jpeg):
            return int.from_bytes(jpeg[at + 5 : at + 7], "big"), int.from_bytes(jpeg[at + 7 : at + 9], "big")
    raise ValueError("not a JPEG picture")


def plain_size(jpeg: bytes) -> tuple[int, int] | None:
    """(height, width) of a whole baseline picture of 8 bits in YCbCr without camera data; None for any other file.

    Camera data (Exif) may turn the picture. RGB is told by Adobe's segment, or by the components' names.
    """
    size, scan = None, False
    try:
        for marker, at in _segments(jpeg):
            scan |= marker == START_OF_SCAN
            if marker == BASELINE:
                names = bytes(jpeg[at + 10 + 3 * k] for k in range(jpeg[at + 9]))
                size = jpeg_size(jpeg) if jpeg[at + 4] == 8 and len(names) == 3 and names != b"RGB" else None
            if _is_special(marker, jpeg[at + 4 : at + 16]):
                return None
    except (ValueError, IndexError):
        return None
    return size if scan and jpeg.endswith(EOI) else None


def _is_special(marker: int, begin: bytes) -> bool:
    """Whether a segment that begins so makes a picture other than plain."""
    if marker in START_OF_FRAME:
        return marker != BASELINE
    if marker == APP14:
        return begin.startswith(b"Adobe") and begin[11] != ADOBE_YCBCR
    return marker == APP1 and begin.startswith(b"Exif")


def split_jpegs(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield each picture of a stream of JPEG files laid end to end (ffmpeg's image2pipe).

    Segments are walked by their lengths, so an end marker inside a comment or a thumbnail is not taken for the end;
    within the scan it cannot occur, where FF is always followed by 00 or a restart (T.81, B.1.1.5).
    An unfinished picture at the end (the writer was killed) is dropped.

    Raises:
        ValueError: the stream holds something other than JPEG pictures.
    """
    buffer = bytearray()
    searched = 0  # bytes of the picture in which its end is known not to lie
    while True:
        end, searched = _end_of_picture(buffer, searched)
        if end:
            yield bytes(buffer[:end])
            del buffer[:end]
            searched = 0
        elif chunk := stream.read(CHUNK_BYTES):
            buffer += chunk
        else:
            return


def _end_of_picture(data: bytearray, searched: int) -> tuple[int, int]:
    """(end of the first picture or 0, bytes searched for it)."""
    start = searched
    if not start:
        scans = [at + 2 + _length(data, at) for marker, at in _segments(data) if marker == START_OF_SCAN]
        if not scans:
            return 0, 0
        start = scans[0]
    found = data.find(EOI, start)
    return (found + 2, 0) if found >= 0 else (0, max(start, len(data) - 1))


def _length(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at + 2 : at + 4], "big")


def _segments(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """(marker, position of its FF) of each whole segment up to the scan's."""
    if not data.startswith(SOI[: len(data)]):
        raise ValueError("not a JPEG picture")
    at = len(SOI)
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("not a JPEG picture")
        if data[at + 1] == 0xFF:  # a marker may be preceded by fill bytes
            at += 1
            continue
        end = at + 2 + _length(data, at)
        if end > len(data):
            return
        yield data[at + 1], at
        if data[at + 1] == START_OF_SCAN:
            return
        at = end
