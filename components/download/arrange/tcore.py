"""Kinetics-400: T-CoRe's index files beside the class folders, where labels.txt tells the classes' numbers."""

from __future__ import annotations

from pathlib import Path

from components.common.tcore_lists import LABELS, find_entries, make_lists, read_labels, write_lists


def arrange(root: Path, tree: Path) -> str:
    """Write entries-, class-ids- and class-names-*.npy of `train` and `val` where they are not; "" without labels.txt.

    Raises:
        StageError: a class folder that labels.txt does not name.
    """
    if not (root / LABELS).is_file():
        return ""
    labels, done = read_labels(root / LABELS), []
    for split in ("train", "val"):
        if (root / split).is_dir() and not (root / f"entries-{split.upper()}.npy").exists():
            entries = find_entries(root / split)
            write_lists(make_lists(entries, labels), root, split.upper())
            done.append(f"{len(entries):,} videos of {split}")
    return f"wrote T-CoRe's lists: {', '.join(done)}" if done else ""
