"""Videos with masks on their frames, in the trees of four benchmarks. What they share is here; what differs:

- `davis`   JPEGImages/480p/<video>/, Annotations/480p/<video>/, a list ImageSets/<split>.txt; masks hold object ids.
- `visor`   VISOR as it unpacks, rgb_frames/ and polygons in annotations/ (see visor_polygons.py), as its exporter to
            DAVIS' layout leaves it, or JPEGImages/<participant>/<video>/; lists as DAVIS' (`2022/val`), or none.
- `mose`    <split>/JPEGImages/<video>/, <split>/Annotations/<video>/, no list; object ids (see mose.py).
- `ytvos`   the same and <split>/meta.json, which gives each object of a video its category (see ytvos.py).

A folder that holds pictures is a video, however deep it lies. A frame without a mask is left out: YouTube-VOS masks
every fifth frame. Nothing is converted, moved or deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.common.errors import StageError
from components.evaluate.images import folders_in, pictures_in, read_index, size_of
from components.evaluate.layouts.davis import FRAMES, MASKS, SETS, read_list, sequence_root

VOID = 255
WORDS = {FRAMES: "frames", MASKS: "masks"}
ARCHIVES = {".zip", ".tar", ".tgz", ".gz"}


@dataclass(frozen=True)
class MaskedVideo:
    """One video: the frames that have a mask, in order, and their masks.

    Attributes:
        name: path of its folder below JPEGImages.
        frames, masks: of equal length, one at least.
        label_of: class of each object id; None where the ids themselves are the labels.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    label_of: Mapping[int, int] | None = None

    def mask(self, number: int) -> NDArray[np.uint8]:
        """Object ids of one mask, (H, W)."""
        return read_index(self.masks[number])

    def labels(self, number: int, side: int) -> NDArray[np.uint8]:
        """Labels of one mask as a (side, side) square by the nearest pixel; void stays 255.

        Raises:
            StageError: the mask is unreadable, is not of its frame's size, or holds an object without a class.
        """
        mask = self.mask(number)
        height, width = size_of(self.frames[number])
        if mask.shape != (height, width):
            what = f"sizes disagree in video {self.name}: mask {mask.shape[1]}x{mask.shape[0]}, frame {width}x{height}"
            raise StageError(what, where=self.masks[number])
        if self.label_of is not None:
            mask = self._classes(mask, self.masks[number])
        return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))

    def _classes(self, mask: NDArray[np.uint8], file: Path) -> NDArray[np.uint8]:
        """Object ids to classes by one look-up, so that a class equal to another object's id is not mapped again."""
        assert self.label_of is not None
        table = np.zeros(256, np.uint8)
        table[VOID] = VOID
        for number in np.unique(mask):
            if number not in (0, VOID):
                if int(number) not in self.label_of:
                    raise StageError(f"object {number} of video {self.name} has no category in meta.json", where=file)
                table[number] = self.label_of[int(number)]
        return table[mask]


def read_trees(
    root: Path, wanted: list[str] | None, labels: Callable[[str], Mapping[int, int] | None] = lambda _: None
) -> list[MaskedVideo]:
    """The videos below root/JPEGImages and root/Annotations, by name; only the `wanted` ones where a list is given.

    Raises:
        StageError: a folder, video or frame is missing, the tree holds archives, or nothing has a mask.
    """
    frames, masks = (video_folders(root / kind) for kind in (FRAMES, MASKS))
    names = wanted if wanted is not None else sorted(masks)
    videos = []
    for name in names:
        for kind, found in ((FRAMES, frames), (MASKS, masks)):
            if name not in found:
                why = "is listed" if wanted is not None else "has masks"  # without a list, names are those of masks
                raise StageError(f"video {name} {why} but has no {WORDS[kind]}", where=root / kind)
        videos.append(_video(name, frames[name], masks[name], labels(name)))
    return videos


def video_folders(folder: Path) -> dict[str, Path]:
    """Folders with pictures at any depth, by their path below `folder` (below `folder/480p` where there is one)."""
    if not folder.is_dir():
        raise StageError(f"no {folder.name} folder", where=folder.parent)
    _refuse_archives(folder)
    top = sequence_root(folder)
    found: dict[str, Path] = {}
    waiting = [top]
    while waiting:
        here = waiting.pop()
        _refuse_archives(here)
        if here != top and pictures_in(here):
            found[here.relative_to(top).as_posix()] = here
        waiting += folders_in(here)
    if not found:
        raise StageError("no folder here holds pictures", where=folder)
    return found


def _refuse_archives(folder: Path) -> None:
    packed = next((file for file in sorted(folder.iterdir()) if file.suffix.lower() in ARCHIVES), None)
    if packed is not None:
        raise StageError("an archive where folders of frames are expected", where=packed, do="unpack it there")


def split_root(root: Path, split: str) -> Path:
    """root/<split> where the benchmark is cut into folders, else root itself; StageError if neither has frames."""
    if (root / split / FRAMES).is_dir():
        return root / split
    if (root / FRAMES).is_dir():
        return root
    there = [folder.name for folder in folders_in(root) if (folder / FRAMES).is_dir()] if root.is_dir() else []
    do = f"there are: {', '.join(there)}" if there else f"expected {split}/{FRAMES} and {split}/{MASKS}"
    raise StageError(f"no split '{split}'", where=root, do=do)


def listed(root: Path, split: str) -> list[str] | None:
    """Names in ImageSets/<split>.txt; None, that is all videos, where the benchmark has no lists."""
    return read_list(root / SETS / f"{split}.txt") if (root / SETS).is_dir() else None


def read_videos(root: Path, layout: str, split: str, video_list: str | None = None) -> list[MaskedVideo]:
    """The videos of a benchmark in one of the four layouts.

    Args:
        root: the benchmark's folder.
        layout: davis, visor, mose or ytvos.
        split: list below ImageSets (davis, visor) or folder below root (mose, ytvos, visor's polygons).
        video_list: file below root that names the videos to take, instead of the split's own list or of all.
    """
    from components.evaluate.layouts import mose, visor, ytvos

    wanted = read_list(root / video_list) if video_list else None
    if layout == "davis":
        return read_trees(root, wanted or listed(root, split))
    reader = {"visor": visor.read_visor, "mose": mose.read_mose, "ytvos": ytvos.read_ytvos}[layout]
    return reader(root, split, wanted)


def _video(name: str, frame_dir: Path, mask_dir: Path, label_of: Mapping[int, int] | None) -> MaskedVideo:
    frames = {file.stem: file for file in pictures_in(frame_dir)}
    masks = pictures_in(mask_dir)
    strays = [file for file in masks if file.stem not in frames]
    if strays:
        raise StageError(f"masks and frames disagree in video {name}: {strays[0].name} has no frame", where=strays[0])
    return MaskedVideo(name, tuple(frames[file.stem] for file in masks), tuple(masks), label_of)
