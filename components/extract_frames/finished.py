"""Finished videos in a folder that survives kills, and the frame store that is put together from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import StageError
from components.common.frame_store_journal import Journal
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.common.hashing import json_hash
from components.common.jpeg import jpeg_size
from components.extract_frames import objects, palette
from components.extract_frames.annotations import Tracks
from components.extract_frames.find import Source
from components.extract_frames.objects import VideoObjects
from components.extract_frames.packs import MANIFEST, Manifest, Pack, Packs
from components.extract_frames.palette import PaletteMasks
from components.extract_frames.video import FRAME, BadVideoError, Decoder, Extracted, bad_row

SHOWN = 10  # bad videos named in the error
AT_ONCE = 4096  # frames of a video whose columns are Python objects at a time


class Finished:
    """Videos, and pieces of long ones, that need not be decoded again; with their objects where `tracks` tells of them.

    Until the stage is done, they and the frame store lie side by side: the disk must hold the frames twice.
    """

    def __init__(self, folder: Path, tracks: Tracks | PaletteMasks | None = None) -> None:
        self.folder, self.tracks = folder / "finished", tracks
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest, self.packs = Manifest(self.folder / MANIFEST), Packs(self.folder)

    def has(self, source: Source) -> bool:
        """Whether this video was finished, by this process or one that was killed."""
        return _name(source.key) in self.manifest

    def make(self, source: Source, decoder: Decoder) -> VideoRow:
        """Extract one video and keep it; a bad one leaves nothing behind and is tried again by the next run."""
        try:
            with self.packs.one() as pack:
                start = pack.end
                extracted = decoder.extract(source, pack)
                frames = placed(extracted.frames, pack, start)
                value = self._written(dataclasses.replace(extracted, frames=frames), pack)
        except BadVideoError as bad:
            return bad_row(source, str(bad))
        self.manifest.add(_name(source.key), value)
        return extracted.video

    def keep(self, source: Source, extracted: Extracted) -> None:
        """Note a video whose frames lie in packs already."""
        with self.packs.one() as pack:
            value = self._written(extracted, pack)
        self.manifest.add(_name(source.key), value)

    def n_frames(self, key: str) -> int:
        """Frames of a finished video."""
        return int(self.manifest[_name(key)]["n"])

    def load(self, source: Source, first: int = 0) -> tuple[VideoRow, Iterator[Frame]]:
        """The row of a finished video and its frames from number `first` on, read one by one."""
        entry = self.manifest[_name(source.key)]
        table = np.frombuffer(self.packs.read(*entry["frames"]), FRAME)
        frames = self._frames(table[first:])
        row = VideoRow(**entry["video"])
        return row, frames if self.tracks is None else self._with_objects(source, frames, len(table), first)

    def told(self, source: Source) -> dict[str, Any]:
        """What was said of a finished video's objects: their number `n`, `n_outside`, `trouble`, `note`."""
        return dict(self.manifest[_name(source.key)]["objects"])

    def objects(self, source: Source) -> VideoObjects:
        """The objects of a finished video."""
        said = self.told(source)
        return VideoObjects.parsed(self.packs.read(*said["rows"]), said)

    def close(self) -> None:
        """Close all files."""
        self.manifest.close()
        self.packs.close()

    def _written(self, extracted: Extracted, pack: Pack) -> dict[str, Any]:
        frames = extracted.frames
        value = {"video": dataclasses.asdict(extracted.video), "n": len(frames), "frames": append(pack, frames)}
        if (
            self.tracks is not None
        ):  # here, beside ffmpeg's work: reading a long video's boxes takes a tenth of a second
            told = self._objects_of(extracted)
            value["objects"] = {"rows": append(pack, told.rows), "n": len(told.rows), **told.facts}
        return value

    def _objects_of(self, extracted: Extracted) -> VideoObjects:
        if isinstance(self.tracks, PaletteMasks):
            return palette.objects_of(extracted, self.tracks)
        assert self.tracks is not None
        return objects.objects_of(extracted, self.tracks)

    def _with_objects(self, source: Source, frames: Iterator[Frame], n_frames: int, first: int) -> Iterator[Frame]:
        assert self.tracks is not None
        masks = self.tracks if isinstance(self.tracks, PaletteMasks) else None
        table = masks.table(source.key) if masks is not None and source.key in masks.names else None
        told = objects.per_frame(self.objects(source), self.tracks.label_maps(source.key), n_frames)
        for frame, (own, label_map) in zip(frames, islice(told, first, None), strict=True):
            size = jpeg_size(frame.jpeg)
            if label_map is None:
                yield frame._replace(objects=objects.in_pixels(own, *size))
            else:
                boxes, labels = objects.with_labels(own, label_map, *size, table)
                yield frame._replace(objects=boxes, labels=labels)

    def _frames(self, table: NDArray[np.void]) -> Iterator[Frame]:
        for first in range(0, len(table), AT_ONCE):
            for pack, offset, size, pts_s, frame, cut in table[first : first + AT_ONCE].tolist():
                yield Frame(self.packs.read(pack, offset, size), pts_s, frame, cut)


def _name(key: str) -> str:
    return f"video {key}"


def append(pack: Pack, values: NDArray[Any]) -> tuple[int, int, int]:
    """Put an array into a pack; returns its place: (pack, first byte, bytes)."""
    place = pack.number, pack.end, values.nbytes
    pack.write(values.tobytes())
    return place


def placed(frames: NDArray[np.void], pack: Pack, start: int) -> NDArray[np.void]:
    """Frames whose offsets, counted from `start`, are counted from the start of the pack."""
    frames = frames.copy()
    frames["pack"], frames["offset"] = pack.number, frames["offset"] + start
    return frames


def assemble(
    parts: list[list[Source]],
    bad: dict[str, VideoRow],
    finished: Finished,
    folder: Path,
    shard_bytes: int,
    part: dict[str, object] | None = None,
) -> int:
    """Write the frame store of the videos of `parts` in their order; returns the number of frames.

    The bytes depend on the videos alone: not on who made which one when, nor on how often that was interrupted. Each
    part starts a shard, so that shards made elsewhere, part by part, are the same files.

    After a kill it goes on behind the last whole shard: those stay in `folder`, which is not emptied.

    Args:
        part: what the manifest shall say of this store if it is one part of a corpus.
    """
    objects = finished.tracks is not None
    journal = Journal(finished.folder.parent / "assembly", _identity(parts, bad, [shard_bytes, part, objects]))
    with FrameStoreWriter(folder, shard_bytes, part, objects, journal) as store:
        n_done, n_begun = store.n_done, store.n_begun
        for sources in parts:
            store.new_shard()
            for source in sources[min(n_done, len(sources)) :]:
                if source.key in bad:
                    store.add(bad[source.key])
                else:
                    store.add(*finished.load(source, n_begun))
                n_begun = 0
            n_done = max(0, n_done - len(sources))
    return store.n_frames


def _identity(parts: list[list[Source]], bad: dict[str, VideoRow], settings: list[object]) -> str:
    """Of a store: its videos in their order, with what is said of the bad ones, which each run tries anew."""
    reasons = {key: dataclasses.astuple(row) for key, row in bad.items()}
    return json_hash([[[source.key for source in sources] for sources in parts], reasons, settings])


def check_share(shown: Iterable[VideoRow], n_bad: int, n_videos: int, max_bad_share: float) -> None:
    """Raise StageError when more than the stated share of the videos, or every one, is bad.

    Args:
        shown: the bad ones; no more than a few are asked for.
        n_bad: how many there are.
        n_videos: how many videos the corpus has.
        max_bad_share: from 0 to 1.
    """
    if n_bad <= max_bad_share * n_videos and n_bad < n_videos:
        return
    named = ", ".join(f"{row.path} ({row.reason})" for row in islice(shown, SHOWN))
    more = f" and {n_bad - SHOWN} more" if n_bad > SHOWN else ""
    if n_bad == n_videos:
        raise StageError(f"no frame in any of {n_videos} videos: {named}{more}")
    allowed = int(max_bad_share * n_videos)
    what = f"{n_bad} of {n_videos} videos are unreadable, {allowed} may be: {named}{more}"
    raise StageError(what, do="remove or replace them, or raise max_bad_share")


def check_lost(lost: list[str], n_videos: int, max_bad_share: float) -> None:
    """Raise StageError when the annotations of more than the stated share of the videos, or of all, cannot be used.

    Args:
        lost: those videos, with the reasons.
        n_videos: how many videos the corpus has.
        max_bad_share: from 0 to 1.
    """
    if len(lost) <= max_bad_share * n_videos and len(lost) < n_videos:
        return
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    allowed = int(max_bad_share * n_videos)
    what = f"the annotations of {len(lost)} of {n_videos} videos cannot be used, {allowed} may be so: "
    do = "repair or remove them, or raise max_bad_share"
    raise StageError(what + ", ".join(lost[:SHOWN]) + more, do=do)
