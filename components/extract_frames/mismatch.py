"""What lies beside the videos and does not fit them: one line for each kind, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components.extract_frames.annotations import Tracks
from components.extract_frames.find import Source
from components.extract_frames.palette import PaletteMasks

SHOWN = 3  # names in a line


def mismatches(tracks: Tracks, sources: Sequence[Source]) -> Iterator[str]:
    """Track files and label maps without a video, videos without a track file; none of it stops the stage."""
    if tracks.strays:
        yield f"{len(tracks.strays)} track files belong to no video here: {_named(tracks.strays)}"
    bare = [source.name for source in sources if source.key not in tracks.files]
    if bare:
        yield f"{len(bare)} of {len(sources)} videos have no track file: {_named(bare)}"
    if tracks.masks is not None:
        tops = {key.split("/")[0] for key in (*tracks.passed_over, *(source.key for source in sources))}
        strays = sorted(entry.name for entry in tracks.masks.iterdir() if entry.is_dir() and entry.name not in tops)
        if strays:
            yield f"{len(strays)} folders of label maps belong to no video here: {_named(strays)}"


def without_masks(masks: PaletteMasks, sources: Sequence[Source]) -> Iterator[str]:
    """Videos without a folder of masks, where others have one."""
    bare = [source.name for source in sources if source.key not in masks.folders]
    if bare:
        yield f"{len(bare)} of {len(sources)} videos have no masks: {_named(bare)}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
