"""GOT-10k: one object a clip, the largest toy of its first frame, with a box a frame and how much of it can be seen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.layouts.writer import Facts, Writer, of_split, write_lines
from components.download.world.pictures import write_image
from components.download.world.render import Frame
from components.download.world.truth import Instance, instances

NAMES = {"train": "GOT-10k_Train", "val": "GOT-10k_Val"}
COVER_STEPS = 8  # cover.label counts the visible share in eighths
ABSENT = (0, 0, 0, 0)


def write(clip: Clip, folder: Path) -> Facts:
    name = f"{NAMES[clip.split]}_{clip.number + 1:06d}"
    place, target, rows = folder / clip.split / name, -1, []
    for number, frame in clip.frames():
        write_image(place / f"{number + 1:08d}.jpg", frame.image, clip.params.jpeg_quality)
        seen = instances(frame, 1)
        if number == 0 and seen:
            first = max(seen, key=lambda found: found.area)
            target, kind = first.seen.number, first.seen.kind
        rows.append(_row(frame, next((found for found in seen if found.seen.number == target), None)))
    if target >= 0:
        _write_truth(place, rows, kind, clip.params)
    return {"split": clip.split, "frames": clip.params.n_frames, "name": name if target >= 0 else None}


def _row(frame: Frame, found: Instance | None) -> tuple[tuple[int, ...], int, int]:
    """Box x, y, w, h of the visible pixels, cover, and whether the frame's border cuts the toy."""
    if found is None:
        return ABSENT, 0, 0
    x0, y0, x1, y1 = found.box
    cover = max(1, round(COVER_STEPS * found.visible))
    return (x0, y0, x1 - x0, y1 - y0), cover, int(found.touches_edge(frame.ids.shape))


def _write_truth(place: Path, rows: list[tuple[tuple[int, ...], int, int]], kind: str, params: WorldParams) -> None:
    write_lines(place / "groundtruth.txt", [",".join(f"{side:.4f}" for side in box) for box, _, _ in rows])
    write_lines(place / "cover.label", [str(cover) for _, cover, _ in rows])
    write_lines(place / "absence.label", [str(int(cover == 0)) for _, cover, _ in rows])
    write_lines(place / "cut_by_image.label", [str(cut) for _, _, cut in rows])
    facts = {
        "url": "",
        "begin": "00:00:00",
        "end": f"{timedelta(seconds=round(params.clip_s))}",
        "anno_fps": f"{params.fps:g}Hz",
        "object_class": kind,
        "motion_class": "moving",
        "resolution": f"({params.width_px}, {params.height_px})",
    }
    write_lines(place / "meta_info.ini", ["[METAINFO]", *(f"{key}: {value}" for key, value in facts.items())])


def finish(facts: list[Facts], out: Path, params: WorldParams) -> None:
    for split in NAMES:
        names = [fact["name"] for fact in of_split(facts, split) if fact["name"]]
        write_lines(out / split / "list.txt", names)


WRITER = Writer(write, finish)
