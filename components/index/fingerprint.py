"""Perceptual fingerprints: 256 bits that survive scaling and re-encoding, and a search for near ones.

The signs of the 255 lowest frequencies of a DCT of the 32x32 luminance (pHash: C. Zauner, 2010, with 16x16 in place of
8x8 frequencies: at 64 bits, two different photographs came as close (10) as a frame and its copy cropped by 3 % (13)).
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy.fft import dctn

SIDE = 32  # of the thumbnail; averaging over its cells removes what compression adds
FREQUENCIES = 16  # kept per axis
WORDS = FREQUENCIES**2 // 64
UNREADABLE = -1.0  # texture of a file that is no image
QUERIES, BASE = 128, 8192  # a block of distances: 1 M pairs, 8 MB a word

FINGERPRINT = np.dtype([("hash", "<u8", (WORDS,)), ("texture", "<f4"), ("luma_mean", "<f4"), ("luma_std", "<f4")])


class Near(NamedTuple):
    """Pairs of near fingerprints, one row a pair: position among the queries, in the base, and differing bits."""

    query: np.ndarray
    base: np.ndarray
    bits: np.ndarray


def fingerprint(image: bytes) -> np.ndarray:
    """Fingerprint of an encoded image, a `FINGERPRINT` scalar; texture is UNREADABLE if it does not decode."""
    thumbnail = _thumbnail(image)
    if thumbnail is None:
        return np.array(([0] * WORDS, UNREADABLE, 0, 0), dtype=FINGERPRINT)
    coefficients = dctn(thumbnail, norm="ortho")[:FREQUENCIES, :FREQUENCIES]
    signs = coefficients > 0
    signs[0, 0] = False  # the mean luminance says nothing about the picture
    texture = np.median(np.abs(coefficients).ravel()[1:])
    words = np.packbits(_low_first(signs), bitorder="little").view("<u8")
    return np.array((words, texture, thumbnail.mean(), thumbnail.std()), dtype=FINGERPRINT)


def near(queries: np.ndarray, base: np.ndarray, max_bits: int) -> Near:
    """All pairs that differ in at most `max_bits` bits, ordered by query, then base.

    Args:
        queries, base: uint64 (Q, WORDS) and (N, WORDS). Memory is bounded by the block, whatever Q and N.

    The lower half of the bits decides first: what differs by more there differs by more in all, and unlike pictures
    differ in 64 of those 128 bits, so nearly nothing is left for the upper half.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    columns = np.ascontiguousarray(base.T)
    for first in range(0, len(queries), QUERIES):
        block = queries[first : first + QUERIES]
        for start in range(0, len(base), BASE):
            part = columns[:, start : start + BASE]
            lower = np.bitwise_count(block[:, :1] ^ part[0]) + np.bitwise_count(block[:, 1:2] ^ part[1])
            q, b = np.nonzero(lower <= max_bits)
            bits = np.bitwise_count(block[q] ^ part[:, b].T).sum(axis=1)
            keep = bits <= max_bits
            found.append((first + q[keep], start + b[keep], bits[keep]))
    if not found:
        return Near(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    query, base_row, bits = (np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True))
    order = np.lexsort((base_row, query))
    return Near(query[order], base_row[order], bits[order])


def _thumbnail(image: bytes) -> np.ndarray | None:
    """Luminance (SIDE, SIDE) float64, upright; a large JPEG is decoded at a half to an eighth of its size (draft)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image)) as picture:
                picture.draft("L", (2 * SIDE, 2 * SIDE))
                upright = ImageOps.exif_transpose(picture)
                small = upright.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return np.asarray(small, dtype=np.float64)


def _low_first(signs: np.ndarray) -> np.ndarray:
    """The bits ordered by frequency, so that the first words hold what is surest and differs most between pictures."""
    rows, columns = np.indices(signs.shape)
    return signs.ravel()[np.lexsort((columns.ravel(), (rows + columns).ravel()))]
